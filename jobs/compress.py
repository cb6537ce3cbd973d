#!/usr/bin/env python3
"""ray job submit --working-dir . -- python jobs/compress.py --checkpoint s3://bucket/model --output s3://bucket/small

Truncate fc6 and fc7 of a trained detector to their largest singular values, without retraining (Fast R-CNN,
section 3.1: VGG16 detects in .22 s instead of .32 s and loses .3 points of mAP). The new checkpoint is
scored like any other. Also works as `python jobs/compress.py ...`.
"""

import sys
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # the plain submit form puts only jobs/ there

from pipeline.cli import main
from pipeline.compress import CompressConfig, run

if __name__ == "__main__":
    main(CompressConfig, run, __doc__)
