#!/usr/bin/env python3
"""ray job submit --working-dir . -- python jobs/ablate.py --data s3://bucket/labelled --output s3://bucket/ablations

Also `python jobs/ablate.py ...`, which starts Ray on this machine. `--help` says what it does; its flags
are those of the config that `pipeline.runtime.commands` names.
"""

import sys
from pathlib import Path

# `ray job submit -- jobs/ablate.py` puts only jobs/ on the path.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.runtime.commands import run_file  # noqa: E402

if __name__ == "__main__":
    run_file("ablate")
