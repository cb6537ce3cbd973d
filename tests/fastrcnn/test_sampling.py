"""Hierarchical sampling compared with the rules and counts of the reference code (minibatch.py)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fastrcnn.sampling import RoISample, in_ignored, sample_rois

GT = torch.tensor([[0.0, 0.0, 100.0, 100.0]])
LABEL = torch.tensor([3])


def boxes_of_iou(iou: float, count: int) -> Tensor:
    """Make equal boxes inside GT whose IoU with GT is `iou`."""
    return torch.tensor([[0.0, 0.0, 100.0, 100.0 * iou]]).repeat(count, 1)


def sample(num_fg: int, num_bg: int, *, seed: int = 0, gt: Tensor = GT) -> RoISample:
    proposals = torch.cat([boxes_of_iou(0.8, num_fg), boxes_of_iou(0.3, num_bg)])
    generator = torch.Generator().manual_seed(seed)
    return sample_rois(proposals, gt, LABEL[: len(gt)], generator=generator)


@pytest.mark.parametrize(
    ("num_fg", "num_bg", "fg", "bg"),
    # The ground truth itself is one of the foreground candidates.
    [(99, 1000, 16, 48), (2, 1000, 3, 61), (99, 0, 16, 0), (0, 20, 1, 20)],
)
def test_counts_follow_the_reference(num_fg: int, num_bg: int, fg: int, bg: int) -> None:
    labels = sample(num_fg, num_bg).labels
    assert ((labels == 3).sum().item(), (labels == 0).sum().item()) == (fg, bg)


def test_without_objects_only_a_zero_floor_gives_background() -> None:
    proposals = boxes_of_iou(0.3, 20)
    none, no_labels = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    assert len(sample_rois(proposals, none, no_labels).rois) == 0
    with_floor_zero = sample_rois(proposals, none, no_labels, bg_iou=(0.0, 0.5))
    assert len(with_floor_zero.rois) == 20
    assert with_floor_zero.labels.sum() == 0


def test_the_iou_bounds_are_those_of_the_paper() -> None:
    # IoU .5 is foreground; .1 is background; below .1 is neither.
    for iou, expected in ((0.5, 3), (0.1, 0)):
        got = sample_rois(boxes_of_iou(iou, 5), GT, LABEL, num_rois=64)
        assert (got.labels[1:] == expected).sum() + (got.labels[:1] == expected).sum() >= 5
    got = sample_rois(boxes_of_iou(0.0999, 5), GT, LABEL, num_rois=64)
    assert len(got.rois) == 1  # the ground truth alone


def test_nothing_is_drawn_twice() -> None:
    proposals = torch.cat(
        [torch.tensor([[0.0, 0, 100, 60 + i]]) for i in range(30)]
        + [torch.tensor([[0.0, 0, 100, 20 + i / 2]]) for i in range(50)]
    )
    got = sample_rois(proposals, GT, LABEL, num_rois=64)
    assert len(torch.unique(got.rois, dim=0)) == len(got.rois) == 64


def test_every_candidate_is_drawn_equally_often() -> None:
    # 100 foreground, 16 drawn: p = .16; over 1000 draws one candidate's share has deviation .0116.
    counts = torch.zeros(99)
    proposals = torch.cat([torch.tensor([[0.0, 0, 100, 60 + i * 0.1]]) for i in range(99)])
    proposals = torch.cat([proposals, boxes_of_iou(0.3, 60)])
    for seed in range(1000):
        got = sample_rois(proposals, GT, LABEL, generator=torch.Generator().manual_seed(seed))
        heights = got.rois[got.labels == 3][:, 3]
        index = ((heights - 60) * 10).round().long()
        counts[index[index < 99]] += 1
    share = counts / 1000
    assert abs(share.mean().item() - 0.16) < 0.002
    assert (share - 0.16).abs().max() < 5 * 0.0116


def test_the_same_seed_gives_the_same_sample() -> None:
    first, again, other = (
        sample(99, 1000, seed=7),
        sample(99, 1000, seed=7),
        sample(99, 1000, seed=8),
    )
    assert torch.equal(first.rois, again.rois)
    assert torch.equal(first.labels, again.labels)
    assert first.rois.shape == other.rois.shape


def test_each_roi_is_matched_to_the_box_it_overlaps_most() -> None:
    gt = torch.tensor([[0.0, 0, 10, 10], [20.0, 0, 30, 10]])
    got = sample_rois(
        torch.tensor([[1.0, 0, 11, 10], [21.0, 0, 31, 10]]), gt, torch.tensor([1, 2]), fg_fraction=1
    )
    assert torch.equal(got.gt_boxes[:, 0] == 0, got.labels == 1)
    assert torch.equal(got.gt_boxes[:, 0] == 20, got.labels == 2)


def test_with_one_roi_per_image_a_quarter_of_the_rois_is_foreground() -> None:
    """RoI-centric sampling (R-CNN, SPPnet): of 128 images, 32 of 128 RoIs are foreground on average."""
    proposals = torch.cat([boxes_of_iou(0.8, 5), boxes_of_iou(0.3, 50)])
    labels = [
        sample_rois(
            proposals, GT, LABEL, num_rois=1, generator=torch.Generator().manual_seed(seed)
        ).labels
        for seed in range(2000)
    ]
    assert {len(own) for own in labels} == {1}
    share = torch.cat(labels).gt(0).double().mean().item()
    assert share == pytest.approx(0.25, abs=0.04)  # four deviations of .0097


# An ignored region covers x 200 to 300. GT covers x 0 to 100.
REGION = torch.tensor([[200.0, 0.0, 300.0, 100.0]])


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((250, 0, 350, 100), True),  # half of it is inside
        ((251, 0, 351, 100), False),  # 49 of 100 columns are inside
        ((210, 10, 220, 20), True),  # small, and wholly inside: the IoU with the region is .01
        ((150, 0, 350, 100), True),  # the region is wholly inside the box: half of the box
        ((100, 0, 350, 100), False),  # 100 of 250 columns
        ((220, 0, 220, 50), False),  # a box without area
    ],
)
def test_half_of_a_boxs_area_in_a_region_makes_it_ignored(
    box: tuple[float, ...], expected: bool
) -> None:
    got = in_ignored(torch.tensor([box]).float(), REGION, torch.tensor([0.49]))
    assert got.tolist() == [expected]
    assert in_ignored(torch.tensor([box]).float(), REGION, torch.tensor([0.5])).tolist() == [False]


def test_two_regions_are_not_added_up() -> None:
    halves = torch.tensor([[0.0, 0, 40, 100], [60.0, 0, 100, 100]])
    assert in_ignored(GT, halves, torch.zeros(1)).tolist() == [False]
    assert in_ignored(GT, halves[:0], torch.zeros(1)).tolist() == [False]


def test_many_regions_give_the_same_as_one_at_a_time() -> None:
    generator = torch.Generator().manual_seed(1)
    corners = torch.rand(150, 2, generator=generator) * 100
    boxes = torch.cat([corners, corners + 1 + 20 * torch.rand(150, 2, generator=generator)], dim=1)
    boxes, regions, iou = boxes[:80], boxes[80:], torch.zeros(80)
    one_by_one = [in_ignored(boxes, region[None], iou) for region in regions]
    assert torch.equal(in_ignored(boxes, regions, iou), torch.stack(one_by_one).any(dim=0))


def test_proposals_in_an_ignored_region_are_not_background() -> None:
    inside = torch.tensor([[210.0, 0, 290, 90]]).repeat(30, 1)
    outside = torch.tensor([[500.0, 0, 600, 90]]).repeat(30, 1)
    proposals = torch.cat([inside, outside])
    got = sample_rois(proposals, GT, LABEL, bg_iou=(0.0, 0.5), ignored=REGION)
    assert len(got.rois) == 31
    assert (got.rois[1:, 0] == 500).all()


def test_an_object_inside_an_ignored_region_is_foreground() -> None:
    got = sample_rois(boxes_of_iou(0.6, 5), GT, LABEL, ignored=torch.tensor([[0.0, 0, 400, 400]]))
    assert got.labels.tolist() == [3] * 6


def test_without_ignored_regions_the_sample_is_as_before() -> None:
    proposals = torch.cat([boxes_of_iou(0.8, 50), boxes_of_iou(0.3, 99)])
    first, second = (
        sample_rois(proposals, GT, LABEL, ignored=ignored, generator=torch.Generator())
        for ignored in (None, torch.zeros(0, 4))
    )
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
