#!/usr/bin/env python3
"""ray job submit --working-dir . -- python jobs/ablate.py --data s3://bucket/labelled --output s3://bucket/ablations

Run the comparisons of the Fast R-CNN paper on your own labelled images: one trial a training and slot of the
cluster (Ray Tune), one table with the paper's numbers beside. Comparisons: sampling, multi_task, scales,
svd, svm, proposals, layers, class_agnostic; where they are named, roi_heads (torchvision's on the same
proposals), proposers (opencv, selective_search, grid, rpn; with the recall of their best 300) and faster_rcnn
(torchvision's by its own recipe beside ours with selective_search, grid and rpn; of several data sets at once
by jobs/benchmark.py proposers). Run again with the same --output it goes on where it stopped.
"""

import sys
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # the plain submit form puts only jobs/ there

from pipeline.ablate import run
from pipeline.ablation.config import AblateConfig
from pipeline.cli import main

if __name__ == "__main__":
    main(AblateConfig, run, __doc__)
