#!/usr/bin/env python3
"""python jobs/report.py --scored URI --output URI

On a cluster: `ray job submit --working-dir . -- python jobs/report.py ...`, the same with
`jobs/report.py` alone, or `ray job submit -- jobs/report.py ...` on a cluster started in the checkout.
`--help` says what it does. `pipeline.runtime.commands` names its config.
"""

import sys
from pathlib import Path

# `ray job submit -- jobs/report.py` puts only jobs/ on the path.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.runtime.commands import run_file  # noqa: E402

if __name__ == "__main__":
    run_file("report")
