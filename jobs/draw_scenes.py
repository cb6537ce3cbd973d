#!/usr/bin/env python3
"""python jobs/draw_scenes.py --output s3://bucket/demo --train 300 --val 40 --test 90 --score 100

Draws a small labelled data set of its own: <output>/shapes is a VOC folder (circles, crosses, rings,
squares and triangles on textured backgrounds), <output>/inbox holds files to score, a tenth of them
broken on purpose. Needs no Ray.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where nothing is installed

from pipeline.cli import main
from pipeline.scene_dataset import DrawConfig, run

if __name__ == "__main__":
    main(DrawConfig, run, __doc__ or "")
