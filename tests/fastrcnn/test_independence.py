"""The result of an image does not depend on the images that share its call, also where passes are shared."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fastrcnn import detection
from fastrcnn.config import FastRCNNConfig, RPNConfig
from fastrcnn.detection import Detections, detect
from fastrcnn.model import FastRCNN
from tests.fastrcnn.test_waits import boxes

MODELS: dict[str, dict[str, Any]] = {
    "given proposals": {"backbone": "tiny"},
    "RPN": {"backbone": "tiny", "rpn": RPNConfig(max_proposals_test=40)},
    "pyramid of features": {
        "backbone": "mobilenet_v3_large_fpn",
        "rpn": RPNConfig(max_proposals_test=40),
    },
    "scales and mirrors": {"backbone": "tiny", "test_scales": (48, 90), "test_flips": True},
    "pyramid of images": {"backbone": "tiny", "pyramid": (48, 64, 90)},
}


def scene(height: int, width: int, generator: np.random.Generator) -> Tensor:
    """Draw rectangles of one colour on noise: a network with random weights answers to edges."""
    pixels = generator.integers(90, 150, (height, width, 3), dtype=np.uint8)
    for _ in range(6):
        y, x = (int(generator.integers(0, side - 8)) for side in (height, width))
        pixels[y : y + 24, x : x + 24] = generator.integers(0, 256, 3)
    return torch.from_numpy(pixels)


@pytest.fixture
def shared_passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Group images as on a GPU. Gives the number of images of each pass."""
    groups, sizes = detection._groups, list[int]()

    def as_on_a_gpu(images: Any, config: Any, _: object) -> list[list[int]]:
        made = groups(images, config, torch.device("cuda"))
        sizes.extend(map(len, made))
        return made

    monkeypatch.setattr(detection, "_groups", as_on_a_gpu)
    return sizes


@pytest.mark.parametrize("kind", MODELS)
def test_an_image_alone_and_among_others_of_many_sizes(kind: str, shared_passes: list[int]) -> None:
    torch.manual_seed(0)
    numbers = {"scale": 64, "max_size": 120, "fc_dim": 16, "score_threshold": 0.0} | MODELS[kind]
    model = FastRCNN(FastRCNNConfig.modern(3, **numbers)).eval()
    generator = np.random.default_rng(0)
    sizes = [(int(h), int(w)) for h, w in generator.integers(60, 130, (7, 2))]
    images = [scene(*size, generator) for size in [*sizes, (96, 128), (72, 96), (100, 130)]]
    proposals = None
    if model.rpn is None:
        proposals = [boxes(25 + seed, seed) for seed in range(len(images))]
    together = detect(model, images, proposals)
    assert max(shared_passes) > 1
    alone = [
        detect(model, [image], None if proposals is None else [proposals[n]])[0]
        for n, image in enumerate(images)
    ]
    for one, other in zip(together, alone, strict=True):
        assert len(one.scores) > 5
        assert_alike(one, other)


def assert_alike(one: Detections, other: Detections) -> None:
    """Both hold the same boxes. Scores that are equal but for rounding may have changed places."""
    assert len(one.scores) == len(other.scores)
    torch.testing.assert_close(one.scores, other.scores, atol=1e-4, rtol=0)
    rows, expected = (torch.cat([d.boxes, 1e3 * d.labels[:, None]], dim=1) for d in (one, other))
    far = torch.cdist(rows.double(), expected.double(), p=torch.inf).amin(dim=1)
    assert far.max() < 1e-2  # pixels; a changed place or label would be far more
