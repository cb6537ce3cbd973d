#!/usr/bin/env python3
"""python jobs/compress.py --checkpoint s3://bucket/model --output s3://bucket/small

On a cluster: `ray job submit --working-dir . -- python jobs/compress.py ...`, the same with
`jobs/compress.py` alone, or `ray job submit -- jobs/compress.py ...` on a cluster started in the
checkout. `--help` says what it does. `pipeline.runtime.commands` names its config.
"""

import sys
from pathlib import Path

# `ray job submit -- jobs/compress.py` puts only jobs/ on the path.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.runtime.commands import run_file  # noqa: E402

if __name__ == "__main__":
    run_file("compress")
