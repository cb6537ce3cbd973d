"""How often the host waits for a GPU in a training step. The number does not grow with the images."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from fastrcnn.config import FastRCNNConfig, RPNConfig, SolverConfig
from fastrcnn.loss import Objective, Target
from fastrcnn.model import FastRCNN
from fastrcnn.solver import build_optimizer
from pipeline.training.examples import Batch
from pipeline.training.step import StepSettings, train_step
from tests.fastrcnn.test_waits import boxes
from tests.pretended_gpu import Gpu, on_gpu, pretended_gpu

FEW = RPNConfig(max_proposals_train=40, pre_nms_train=60)


@cache
def waits(num_images: int, backbone: str, rpn: bool, mixed_precision: bool) -> Gpu:
    """Count the waits of the second step. Images and targets are on the CPU, as the loop gives them."""
    torch.manual_seed(0)
    config = FastRCNNConfig.modern(
        3, backbone=backbone, rpn=FEW if rpn else None, scale=40, max_size=100, fc_dim=16
    )
    model = FastRCNN(config)
    targets = []
    for seed in range(num_images):
        own = torch.from_numpy(boxes(40, seed))
        region = own[9:10] if seed == 1 else None
        targets.append(
            Target(own[: 0 if rpn else None], own[:3] + 1, torch.tensor([1, 2, 3]), region)
        )
    pixels = [torch.randint(0, 256, (96, 128, 3), dtype=torch.uint8) for _ in targets]
    batch = Batch(pixels, targets, list(range(num_images)), ["a"] * num_images)
    solver = SolverConfig.modern(batch_size=num_images, mixed_precision=mixed_precision)
    settings = StepSettings(solver=solver, num_iterations=10, seed=1)
    with pretended_gpu() as gpu:
        optimizer = build_optimizer(on_gpu(model), solver)
        for step in range(2):
            gpu.clear()
            row = train_step(Objective(model), optimizer, batch, step, settings)
    assert row["foreground"] > 0
    assert not gpu.mixes
    return gpu


@pytest.mark.parametrize(
    ("backbone", "rpn", "mixed_precision"),
    [
        ("mobilenet_v2", True, True),
        ("mobilenet_v2", False, True),
        ("resnet50_fpn", True, False),
    ],
)
def test_a_step_waits_a_few_times_however_many_images_it_has(
    backbone: str, rpn: bool, mixed_precision: bool
) -> None:
    few, many = (waits(count, backbone, rpn, mixed_precision) for count in (2, 4))
    assert many.num_waits <= 20, many.waits
    assert many.num_waits == few.num_waits, many.waits - few.waits
