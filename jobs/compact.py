#!/usr/bin/env python3
"""python jobs/compact.py --scored URI --output URI

On a cluster: `ray job submit --working-dir . -- python jobs/compact.py ...`, the same with
`jobs/compact.py` alone, or `ray job submit -- jobs/compact.py ...` on a cluster started in the checkout.
`--help` says what it does. `pipeline.runtime.commands` names its config.
"""

import sys
from pathlib import Path

# `ray job submit -- jobs/compact.py` puts only jobs/ on the path.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.runtime.commands import run_file  # noqa: E402

if __name__ == "__main__":
    run_file("compact")
