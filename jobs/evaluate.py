#!/usr/bin/env python3
"""ray job submit --working-dir . -- python jobs/evaluate.py --scored URI --data URI

The same as `ray job submit --working-dir . -- jobs/evaluate.py --scored URI --data URI`, as
`ray job submit -- jobs/evaluate.py --scored URI --data URI` on a cluster started in the checkout,
and as `python jobs/evaluate.py --scored URI --data URI` without any cluster.

How good the boxes of a scoring run are, where the truth is known: VOC07, VOC10 and COCO average
precision, per class, with precision-recall curves.
"""

from __future__ import annotations

import sys
from pathlib import Path

# `ray job submit -- jobs/evaluate.py` puts only jobs/ on the path.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.cli import main
from pipeline.config import EvaluateConfig
from pipeline.evaluate import run

if __name__ == "__main__":
    main(EvaluateConfig, run, __doc__ or "")
