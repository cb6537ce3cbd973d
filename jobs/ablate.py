#!/usr/bin/env python3
"""ray job submit --working-dir . -- python jobs/ablate.py --data s3://bucket/labelled --output s3://bucket/ablations

Without a cluster: `python jobs/ablate.py ...` starts Ray on this machine. `--help` describes the job;
`pipeline.runtime.commands` names its flags and its function.
"""

import sys
from pathlib import Path

# `ray job submit -- jobs/ablate.py` puts only jobs/ on the path, so add the checkout.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.runtime.commands import run_file  # noqa: E402

if __name__ == "__main__":
    run_file("ablate")
