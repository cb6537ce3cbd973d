#!/usr/bin/env python3
"""ray job submit --working-dir . -- python jobs/train.py --data s3://bucket/labelled --output s3://bucket/run

Fine-tune Fast R-CNN on labelled images, data-parallel over Ray Train workers. Also works as
`ray job submit --working-dir . -- jobs/train.py ...`, as `ray job submit -- jobs/train.py ...` on a
cluster started in the checkout, and as `python jobs/train.py ...`, which starts Ray on this machine.
Run again with the same --output it goes on where it stopped.
"""

import sys
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # the plain submit form puts only jobs/ there

from pipeline.cli import main
from pipeline.config import TrainConfig
from pipeline.train import run

if __name__ == "__main__":
    main(TrainConfig, run, __doc__)
