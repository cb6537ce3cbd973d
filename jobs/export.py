#!/usr/bin/env python3
"""python jobs/export.py --scored URI --output URI --format coco

On a cluster: `ray job submit --working-dir . -- python jobs/export.py ...`, the same with
`jobs/export.py` alone, or `ray job submit -- jobs/export.py ...` on a cluster started in the checkout.
`--help` says what it does. `pipeline.runtime.commands` names its config.
"""

import sys
from pathlib import Path

# `ray job submit -- jobs/export.py` puts only jobs/ on the path.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.runtime.commands import run_file  # noqa: E402

if __name__ == "__main__":
    run_file("export")
