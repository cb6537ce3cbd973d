"""Tests of the memory estimate: head memory worked out by hand, and a refusal before any worker starts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fastrcnn.config import FastRCNNConfig, RPNConfig, SolverConfig
from fastrcnn.model import FastRCNN
from pipeline.errors import UserError
from pipeline.training.memory import FLOAT, StepMemory, check_fits, step_memory

CONFIG = FastRCNNConfig.paper(2, backbone="tiny", fc_dim=16, dropout=0.0, scale=64, max_size=107)
SOLVER = SolverConfig.paper(batch_size=4, iterations=1)


def test_weights_gradients_and_momentum_are_counted() -> None:
    model = FastRCNN(CONFIG)
    memory = step_memory(CONFIG, SOLVER, 1)
    assert memory.weights == FLOAT * sum(p.numel() for p in model.parameters())
    siblings = step_memory(CONFIG, replace(SOLVER, trained="bbox_pred"), 1)
    assert siblings.gradients == siblings.momentum == FLOAT * (16 + 1) * 4 * 3
    assert siblings.weights == memory.weights


def test_adamw_and_an_average_of_the_weights_are_counted() -> None:
    sgd = step_memory(CONFIG, SOLVER, 1)
    adamw = SolverConfig.paper(batch_size=4, iterations=1, optimizer="adamw", ema_decay=0.99)
    memory = step_memory(CONFIG, adamw, 1)
    assert memory.momentum == 2 * sgd.momentum
    assert memory.average == sgd.gradients
    assert memory.total == sgd.total + 2 * sgd.gradients


def test_with_a_frozen_backbone_only_the_head_keeps_activations() -> None:
    """Kept: the input of fc6 (pooled features), of fc7 (fc6 after ReLU) and of the output layers (fc7 after
    ReLU)."""
    only_head = step_memory(replace(CONFIG, frozen_stages=5), SOLVER, 1)
    channels = FastRCNN(CONFIG).backbone.out_channels
    per_roi = channels * 7 * 7 + 16 + 16
    assert only_head.activations == FLOAT * 4 * CONFIG.rois_per_image * per_roi


def test_images_are_split_among_workers_and_passes() -> None:
    whole = step_memory(CONFIG, SOLVER, 1).activations
    assert step_memory(CONFIG, SOLVER, 2).activations == whole // 2
    assert step_memory(CONFIG, replace(SOLVER, images_per_pass=1), 2).activations == whole // 4
    mixed = step_memory(CONFIG, replace(SOLVER, mixed_precision=True), 1)
    assert mixed.activations == whole // 2
    larger = step_memory(replace(CONFIG, pyramid=(64, 96)), SOLVER, 1)
    assert larger.activations > whole


def test_an_rpn_head_is_counted_without_the_feature_map_of_the_backbone() -> None:
    """The head is a 3 x 3 convolution, ReLU and two 1 x 1 convolutions. Only the output of the ReLU is
    kept."""
    model = replace(CONFIG, rpn=RPNConfig())
    without, with_rpn = (step_memory(config, SOLVER, 1) for config in (CONFIG, model))
    channels, cells = FastRCNN(CONFIG).backbone.out_channels, (64 // 8) * -(-85 // 8)
    assert with_rpn.activations - without.activations == FLOAT * 4 * channels * cells
    rpn = FastRCNN(model).rpn
    assert rpn is not None
    more = FLOAT * sum(p.numel() for p in rpn.parameters())
    assert with_rpn.weights - without.weights == with_rpn.momentum - without.momentum == more


@pytest.mark.usefixtures("ray_cluster")
def test_a_step_that_cannot_fit_is_refused_with_its_parts() -> None:
    small = StepMemory(weights=10**6, gradients=10**6, momentum=10**6, activations=10**6)
    check_fits(small, 2, 0)
    large = replace(small, activations=10**15)
    with pytest.raises(UserError, match=r"at least 1000000.00 GB .*images_per_pass=1"):
        check_fits(large, 2, 0)
