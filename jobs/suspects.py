#!/usr/bin/env python3
"""python jobs/suspects.py --scored fold-1 fold-2 --data URI --output URI

`--help` describes the job. `pipeline.runtime.commands` names its flags and its function.
"""

import sys
from pathlib import Path

# `ray job submit -- jobs/suspects.py` puts only jobs/ on the path, so add the checkout.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.runtime.commands import run_file  # noqa: E402

if __name__ == "__main__":
    run_file("suspects")
