#!/usr/bin/env python3
"""ray job submit --working-dir . -- python jobs/train.py --data s3://bucket/labelled --output s3://bucket/run

Two more forms: `ray job submit --working-dir . -- jobs/train.py ...`, and `ray job submit -- jobs/train.py
...` on a cluster that was started in the checkout. Without a cluster: `python jobs/train.py ...` starts Ray
on this machine. `--help` describes the job; `pipeline.runtime.commands` names its flags and its function.
"""

import sys
from pathlib import Path

# `ray job submit -- jobs/train.py` puts only jobs/ on the path, so add the checkout.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.runtime.commands import run_file  # noqa: E402

if __name__ == "__main__":
    run_file("train")
