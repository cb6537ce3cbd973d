"""The multi-task loss on hand-computed values, and the steps of the training objective."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from fastrcnn.boxes import encode
from fastrcnn.config import FastRCNNConfig
from fastrcnn.loss import (
    Objective,
    multi_task_loss,
    training_loss,
)
from fastrcnn.model import FastRCNN
from fastrcnn.sampling import sample_rois
from fastrcnn.transform import batch_images, to_rois
from tests.fastrcnn.random_targets import random_targets


def test_zero_logits_cost_ln_of_the_number_of_columns() -> None:
    loss = multi_task_loss(
        torch.zeros(4, 21), torch.zeros(4, 84), torch.tensor([0, 3, 20, 7]), torch.zeros(4, 4)
    )
    assert loss.classification.item() == pytest.approx(math.log(21), abs=1e-6)  # 3.044522
    assert loss.localization.item() == 0


@pytest.mark.parametrize(("beta", "expected"), [(1.0, 0.53125), (1 / 9, 0.8333333), (0.0, 0.875)])
def test_the_box_loss_equals_the_hand_computed_one(beta: float, expected: float) -> None:
    deltas = torch.zeros(4, 12)
    deltas[0, 4:8] = torch.tensor([0.5, -2.0, 0.0, 1.0])  # class 1's columns
    labels = torch.tensor([1, 0, 0, 0])
    loss = multi_task_loss(torch.zeros(4, 3), deltas, labels, torch.zeros(4, 4), beta=beta)
    assert loss.localization.item() == pytest.approx(expected, abs=1e-6)


def test_more_background_dilutes_the_box_loss() -> None:
    deltas = torch.zeros(8, 12)
    deltas[0, 4:8] = torch.tensor([0.5, -2.0, 0.0, 1.0])
    labels = torch.tensor([1] + [0] * 7)
    loss = multi_task_loss(torch.zeros(8, 3), deltas, labels, torch.zeros(8, 4))
    assert loss.localization.item() == pytest.approx(0.53125 / 2)


def test_only_the_columns_of_the_true_class_have_a_gradient() -> None:
    deltas = torch.randn(2, 12, generator=torch.Generator().manual_seed(0)).requires_grad_()
    multi_task_loss(
        torch.zeros(2, 3), deltas, torch.tensor([2, 0]), torch.zeros(2, 4)
    ).total.backward()
    assert deltas.grad is not None
    assert bool((deltas.grad[0, 8:] != 0).all())
    assert deltas.grad[0, :8].abs().sum() == 0
    assert deltas.grad[1].abs().sum() == 0


def test_no_rois_give_a_zero_loss_that_can_be_differentiated() -> None:
    logits = torch.zeros(0, 3, requires_grad=True)
    loss = multi_task_loss(
        logits, torch.zeros(0, 12), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4)
    )
    loss.total.backward()
    assert loss.total.item() == 0


def test_the_box_weight_scales_the_box_loss_alone() -> None:
    deltas = torch.ones(1, 8)
    args = (torch.zeros(1, 2), deltas, torch.tensor([1]), torch.zeros(1, 4))
    once, thrice = multi_task_loss(*args), multi_task_loss(*args, box_weight=3.0)
    expected = once.classification + 3 * once.localization
    assert thrice.total.item() == pytest.approx(expected.item())


def test_folding_the_normalisation_into_the_weights_changes_no_output() -> None:
    # The reference's snapshot: W * sigma, b * sigma + mu.
    config = FastRCNNConfig(num_classes=2, backbone="tiny", fc_dim=16, frozen_stages=0)
    head = FastRCNN(config).eval().head
    head.delta_mean, head.delta_std = torch.rand(3, 4), torch.rand(3, 4) + 0.5
    x = torch.randn(5, 16)
    mean, std = head.delta_mean.flatten(), head.delta_std.flatten()
    with torch.no_grad():
        expected = head.bbox_pred(x) * std + mean
        head.bbox_pred.weight.mul_(std[:, None])
        head.bbox_pred.bias.mul_(std).add_(mean)
        torch.testing.assert_close(head.bbox_pred(x), expected)


def small_config(**changes: Any) -> FastRCNNConfig:
    numbers: dict[str, Any] = {"fc_dim": 32, "scale": 96, "max_size": 160, "rois_per_image": 32}
    return FastRCNNConfig.modern(2, backbone="tiny", **(numbers | changes))


def test_the_loss_falls_when_one_batch_is_repeated() -> None:
    torch.manual_seed(0)
    model = FastRCNN(small_config())
    images = [torch.randint(0, 256, (100, 120, 3), dtype=torch.uint8) for _ in range(2)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    losses = []
    for _ in range(25):
        out = training_loss(model, images, random_targets()[:2])
        optimizer.zero_grad()
        out.loss.total.backward()
        optimizer.step()
        losses.append(out.loss.total.item())
    assert out.num_rois == 64
    assert losses[-1] < 0.6 * losses[0]


def test_the_objective_is_the_loss_of_the_models_outputs_for_each_images_sample() -> None:
    torch.manual_seed(0)
    model = FastRCNN(small_config(delta_std=(0.1, 0.1, 0.2, 0.2), beta=0.5, box_weight=2.0)).eval()
    config, data, seeds = model.config, random_targets()[:2], [8, 5]
    images = [torch.randint(0, 256, (100, 120, 3), dtype=torch.uint8) for _ in range(2)]
    batch = batch_images(images, config.scale, config.max_size)
    samples = [
        sample_rois(
            target.proposals,
            target.gt_boxes,
            target.gt_labels,
            num_rois=config.rois_per_image,
            fg_fraction=config.fg_fraction,
            fg_iou=config.fg_iou,
            bg_iou=config.bg_iou,
            generator=torch.Generator().manual_seed(seed),
        )
        for target, seed in zip(data, seeds, strict=True)
    ]
    rois = to_rois([sample.rois for sample in samples], batch.factors)
    labels = torch.cat([sample.labels for sample in samples])
    class_logits, box_deltas = model(batch.images, rois)
    std = torch.tensor([0.1, 0.1, 0.2, 0.2])
    deltas = torch.cat([encode(sample.rois, sample.gt_boxes) for sample in samples])
    expected = multi_task_loss(
        class_logits, box_deltas / std.repeat(3), labels, deltas / std, beta=0.5, box_weight=2.0
    )
    found = training_loss(model, images, data, seeds)
    for a, b in zip(found.loss, expected, strict=True):
        assert a.item() == b.item()
    assert (found.num_rois, found.num_fg) == (len(labels), int((labels > 0).sum()))
    assert found.rpn is None
    assert found.total.item() == found.loss.total.item()
    again, others = (Objective(model)(images, data, s) for s in (seeds, None))
    assert again.loss.total.item() == expected.total.item() != others.loss.total.item()


def test_the_objective_trains_the_models_parameters_under_the_models_names() -> None:
    model = FastRCNN(small_config())
    objective = Objective(model)
    names = {f"model.{name}": p for name, p in model.named_parameters()}
    assert dict(objective.named_parameters()).keys() == names.keys()
    assert all(p is names[name] for name, p in objective.named_parameters())
    objective.eval()
    assert not model.training
