#!/usr/bin/env python3
"""python jobs/export_proposals.py --checkpoint URI --images s3://bucket/labelled --output URI

ray job submit --working-dir . -- python jobs/export_proposals.py ... (on a cluster)

The proposals of a detector that was trained with --proposals rpn, as a table that --proposals of
jobs/train.py and jobs/score_bucket.py reads: for other detectors. Run again it goes on.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where nothing is installed

from pipeline.cli import main
from pipeline.proposals_export import ExportProposalsConfig, run

if __name__ == "__main__":
    main(ExportProposalsConfig, run, __doc__ or "")
