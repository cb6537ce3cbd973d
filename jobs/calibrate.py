#!/usr/bin/env python3
"""python jobs/calibrate.py --checkpoint s3://bucket/model --data s3://bucket/cells --output s3://bucket/new

Also on a Ray cluster: `ray job submit --working-dir . -- python jobs/calibrate.py ...`. `--help` describes
the job; `pipeline.runtime.commands` names its flags and its function.
"""

import sys
from pathlib import Path

# `ray job submit -- jobs/compress.py` puts only jobs/ on the path, so add the checkout.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.runtime.commands import run_file  # noqa: E402

if __name__ == "__main__":
    run_file("calibrate")
