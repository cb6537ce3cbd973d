#!/usr/bin/env python3
"""python jobs/import_proposals.py --source proposals.pkl --data URI --output proposals.parquet

Proposals of fast-rcnn (.mat), detectron2 or mmdetection (.pkl) as a table that --proposals reads. Matched by
the images' names, never by order; a pickle is read without running it.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where nothing is installed

from pipeline.cli import main
from pipeline.proposals_import import ImportConfig, run

if __name__ == "__main__":
    main(ImportConfig, run, __doc__ or "")
