"""How often the host waits for a GPU in `detect`. The number does not grow with images, boxes or classes."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fastrcnn.config import FastRCNNConfig, RPNConfig
from fastrcnn.detection import detect, postprocess
from fastrcnn.model import FastRCNN
from fastrcnn.scoring_form import fold_norms
from fastrcnn.suppression import distinct
from tests.pretended_gpu import Gpu, on_gpu, pretended_gpu

FEW = RPNConfig(max_proposals_test=30, pre_nms_test=40)
VIEWS = {"test_flips": True, "vertical_flips": True, "quarter_turns": True, "test_scales": (48,)}


def boxes(count: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    corners = generator.uniform(0, 60, (count, 2))
    sides = generator.uniform(8, 36, (count, 2))
    return np.concatenate([corners, corners + sides], axis=1).astype(np.float32)


@cache
def waits(num_images: int, backbone: str, rpn: bool, **numbers: Any) -> Gpu:
    """Count the waits of one call, after a first one. The images are on the GPU already."""
    torch.manual_seed(0)
    small = {"fc_dim": 16, "scale": 40, "max_size": 100} | numbers
    config = FastRCNNConfig.modern(3, backbone=backbone, rpn=FEW if rpn else None, **small)
    model = FastRCNN(config).eval().requires_grad_(False)
    fold_norms(model.backbone)
    proposals = None if rpn else [boxes(30, seed) for seed in range(num_images)]
    pixels = torch.randint(0, 256, (num_images, 96, 128, 3), dtype=torch.uint8)
    with pretended_gpu() as gpu:
        on_gpu(model)
        images = [on_gpu(image) for image in pixels]
        detect(model, images[:1], None if proposals is None else proposals[:1])
        gpu.clear()
        found = detect(model, images, proposals, score_threshold=0.0)
    assert len(found) == num_images
    assert all(len(one.boxes) > 0 and type(one.boxes) is Tensor for one in found)
    assert not gpu.mixes
    return gpu


@pytest.mark.parametrize(
    ("backbone", "rpn", "most"),
    [
        ("mobilenet_v2", False, 12),
        ("mobilenet_v2", True, 16),
        ("resnet50_fpn", False, 12),
        ("resnet50_fpn", True, 16),
    ],
)
def test_a_call_waits_a_few_times_however_many_images_it_has(
    backbone: str, rpn: bool, most: int
) -> None:
    few, many = waits(2, backbone, rpn), waits(8, backbone, rpn)
    assert many.num_waits <= most, many.waits
    assert many.num_waits == few.num_waits, many.waits - few.waits


def test_views_and_pyramids_wait_no_more_for_more_images() -> None:
    for numbers in (VIEWS, {"pyramid": (48, 64, 96)}):
        few, many = (waits(count, "tiny", False, **numbers) for count in (2, 5))
        assert many.num_waits <= 12, many.waits
        assert many.num_waits == few.num_waits, many.waits - few.waits


def test_the_chunks_of_many_rois_add_no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = waits(3, "mobilenet_v3_large_fpn", False)
    monkeypatch.setattr(FastRCNN, "rois_per_chunk", 20)
    waits.cache_clear()
    assert waits(3, "mobilenet_v3_large_fpn", False).num_waits == whole.num_waits


def suppression_waits(num_classes: int, num_boxes: int, num_images: int) -> int:
    """Count the waits of `postprocess` at threshold 0, where every box goes into suppression."""
    config = FastRCNNConfig.modern(num_classes, backbone="tiny")
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(num_images, num_boxes, 2, generator=generator) * 400
    proposals = torch.cat([corners, corners + 20 + 80 * torch.rand(corners.shape)], dim=2)
    total = num_images * num_boxes
    logits = torch.randn(total, num_classes + 1, generator=generator)
    deltas = torch.randn(total, 4 * (num_classes + 1), generator=generator) * 0.05
    with pretended_gpu() as gpu:
        images = [on_gpu(image) for image in proposals]
        sizes = [(480, 640)] * num_images
        found = postprocess(images, on_gpu(logits), on_gpu(deltas), sizes, config, 0.0)
    assert [len(one.scores) for one in found] == [config.detections_per_image] * num_images
    assert not gpu.mixes
    return gpu.num_waits


def test_suppression_waits_as_often_for_32000_boxes_an_image_as_for_900() -> None:
    assert suppression_waits(80, 400, 8) == suppression_waits(3, 300, 2) <= 5


def test_near_duplicates_of_many_images_are_removed_with_two_waits() -> None:
    with pretended_gpu() as gpu:
        kept = distinct([on_gpu(torch.from_numpy(boxes(600, seed))) for seed in range(16)], 0.8)
    assert gpu.num_waits == 2
    assert {len(one) < 600 for one in kept} == {True}
