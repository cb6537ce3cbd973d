#!/usr/bin/env python3
"""ray job submit --working-dir . -- python jobs/compact.py --scored URI --output URI

The same as `ray job submit --working-dir . -- jobs/compact.py --scored URI --output URI`, as
`ray job submit -- jobs/compact.py --scored URI --output URI` on a cluster started in the checkout,
and as `python jobs/compact.py --scored URI --output URI` without any cluster.

Makes OUTPUT/detections/<run_id>.parquet of each scoring run: one row a box, sorted by label and falling
score, so that a question about one class reads little of it. Of an image that was scored again only the
newest row counts. Readers see the old table until the new one is whole. Run again, it does nothing, or
takes in what was scored since.

Sorting is done on this machine's disk (--temp-folder), whatever the size of the run; memory is bounded
(--memory-gib).
"""

from __future__ import annotations

import sys
from pathlib import Path

# `ray job submit -- jobs/compact.py` puts only jobs/ on the path.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.cli import main
from pipeline.compact import run
from pipeline.results.config import CompactConfig

if __name__ == "__main__":
    main(CompactConfig, run, __doc__ or "")
