#!/usr/bin/env python3
"""ray job submit --working-dir . -- python jobs/train.py --data s3://bucket/labelled --output s3://bucket/run

Also: `ray job submit --working-dir . -- jobs/train.py ...`, `ray job submit -- jobs/train.py ...` on a
cluster started in the checkout, and `python jobs/train.py ...`, which starts Ray on this machine.
`--help` says what it does. `pipeline.runtime.commands` names its config.
"""

import sys
from pathlib import Path

# `ray job submit -- jobs/train.py` puts only jobs/ on the path.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.runtime.commands import run_file  # noqa: E402

if __name__ == "__main__":
    run_file("train")
