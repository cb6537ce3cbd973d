#!/usr/bin/env python3
"""ray job submit --working-dir . -- python jobs/export.py --scored URI --output URI --format coco

The same as `ray job submit --working-dir . -- jobs/export.py ...`, as `ray job submit -- jobs/export.py ...`
on a cluster started in the checkout, and as `python jobs/export.py ...` without any cluster.

Boxes of a scoring run for other tools. coco: a results file for pycocotools, with --ids in the ids of an
annotation file. fiftyone: a FiftyOneImageDetectionDataset. labelstudio: tasks with the boxes as predictions,
and the labelling interface. Images that were not looked at are left out; empty ones are not.

iceberg, delta: one row a box in a lake's table, which is replaced in one commit by Ray Data's own writers
(needs the extra of that name). --output is then NAMESPACE.TABLE of pyiceberg's catalogue "default", or the
folder of the Delta table.

FiftyOne wants local paths and Label Studio URLs that a browser can open: --image-root says where the images
are to be found.
"""

from __future__ import annotations

import sys
from pathlib import Path

# `ray job submit -- jobs/export.py` puts only jobs/ on the path.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.cli import main
from pipeline.exports import run
from pipeline.results.config import ExportConfig

if __name__ == "__main__":
    main(ExportConfig, run, __doc__ or "")
