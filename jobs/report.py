#!/usr/bin/env python3
"""ray job submit --working-dir . -- python jobs/report.py --scored URI --output URI

The same as `ray job submit --working-dir . -- jobs/report.py --scored URI --output URI`, as
`ray job submit -- jobs/report.py --scored URI --output URI` on a cluster started in the checkout,
and as `python jobs/report.py --scored URI --output URI` without any cluster.

Makes one HTML page of a scoring run, OUTPUT/report/<run_id>.html or OUTPUT itself where it ends in .html:
images by status, boxes by class, scores, sizes, throughput, failures with examples, pictures with their
boxes, and accuracy where --data has the truth. The page holds all it needs, loads nothing, and opens from a
disk or a bucket.

The pictures are small copies of the images: who may read the page sees them.
"""

from __future__ import annotations

import sys
from pathlib import Path

# `ray job submit -- jobs/report.py` puts only jobs/ on the path.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.cli import main
from pipeline.report import run
from pipeline.results.config import ReportConfig

if __name__ == "__main__":
    main(ReportConfig, run, __doc__ or "")
