"""Drawn pictures for tests of proposals. This module imports no torch, because child processes import it."""

from __future__ import annotations

import hashlib

import cv2
import numpy as np
import numpy.typing as npt

from fastrcnn.config import ProposalConfig
from fastrcnn.proposals import propose

Image = npt.NDArray[np.uint8]


def scene(height: int = 240, width: int = 320, seed: int = 0) -> Image:
    """Draw discs and boxes of many sizes on a shaded ground with a little noise."""
    rng = np.random.default_rng(seed)
    ground = np.linspace(90, 150, width)[None, :, None] + np.zeros((height, 1, 3))
    image = ground.astype(np.uint8)
    for _ in range(14):
        color = tuple(int(c) for c in rng.integers(0, 255, 3))
        x, y, side = (
            int(n) for n in (rng.integers(width), rng.integers(height), rng.integers(8, 50))
        )
        if rng.random() < 0.5:
            cv2.circle(image, (x, y), side // 2, color, -1)
        else:
            cv2.rectangle(image, (x, y), (x + side, y + side), color, -1)
    noisy = np.clip(image + rng.integers(-4, 5, image.shape), 0, 255)
    return np.asarray(noisy, np.uint8)


def digest() -> str:
    """Compute a digest of the default proposals of three scenes."""
    boxes = [propose(scene(480, 640, seed), ProposalConfig()).tobytes() for seed in range(3)]
    return hashlib.sha256(b"".join(boxes)).hexdigest()
