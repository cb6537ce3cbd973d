"""The statistics by which box targets are normalised."""

from __future__ import annotations

import torch
from torchvision.ops import box_iou

from fastrcnn.boxes import encode
from fastrcnn.delta_statistics import delta_statistics
from fastrcnn.loss import Target
from tests.fastrcnn.random_targets import random_targets


def test_normalised_targets_have_mean_zero_and_deviation_one_per_class() -> None:
    data = random_targets()
    mean, std = delta_statistics(data, 2)
    assert mean[0].tolist() == [0] * 4
    assert std[0].tolist() == [1] * 4
    for label in (1, 2):
        deltas = []
        for target in data:
            candidates = torch.cat([target.proposals, target.gt_boxes])
            iou, match = box_iou(candidates, target.gt_boxes).max(dim=1)
            own = (iou >= 0.5) & (target.gt_labels[match] == label)
            deltas.append(encode(candidates[own], target.gt_boxes[match[own]]))
        normalised = (torch.cat(deltas) - mean[label]) / std[label]
        torch.testing.assert_close(normalised.mean(dim=0), torch.zeros(4), atol=1e-5, rtol=0)
        torch.testing.assert_close(
            normalised.std(dim=0, unbiased=False), torch.ones(4), atol=1e-5, rtol=0
        )


def test_a_class_with_perfect_proposals_only_gets_no_nan() -> None:
    far = torch.tensor([[500.0, 500, 520, 520]])
    lonely = Target(far, torch.tensor([[0.0, 0, 30, 30]]), torch.tensor([2]))
    mean, std = delta_statistics([*random_targets(), lonely], 3)
    assert bool(torch.isfinite(mean).all())
    assert bool((std > 0).all())


def test_class_agnostic_statistics_are_those_of_all_classes_together() -> None:
    mean, std = delta_statistics(random_targets(), 2, class_agnostic=True)
    assert mean.shape == std.shape == (3, 4)
    for rows in (mean, std):
        assert torch.equal(rows, rows[:1].expand(3, 4))
    one_class = [
        Target(t.proposals, t.gt_boxes, torch.ones_like(t.gt_labels)) for t in random_targets()
    ]
    own_mean, own_std = delta_statistics(one_class, 1)
    torch.testing.assert_close(mean[1], own_mean[1])
    torch.testing.assert_close(std[1], own_std[1])
