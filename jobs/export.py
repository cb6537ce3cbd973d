#!/usr/bin/env python3
"""python jobs/export.py --scored URI --output URI --format coco

Also on a Ray cluster: `ray job submit --working-dir . -- python jobs/export.py ...`. `--help` describes the
job; `pipeline.runtime.commands` names its flags and its function.
"""

import sys
from pathlib import Path

# `ray job submit -- jobs/export.py` puts only jobs/ on the path, so add the checkout.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.runtime.commands import run_file  # noqa: E402

if __name__ == "__main__":
    run_file("export")
