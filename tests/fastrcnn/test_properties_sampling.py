"""Properties of every sample of RoIs. The test computes the IoUs itself."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastrcnn.sampling import sample_rois

grid = st.integers(0, 12)
box = (
    st.tuples(grid, grid, grid, grid)
    .filter(lambda c: c[0] != c[2] and c[1] != c[3])
    .map(lambda c: (min(c[0], c[2]), min(c[1], c[3]), max(c[0], c[2]), max(c[1], c[3])))
)
Box = tuple[int, int, int, int]
cases = st.tuples(
    st.lists(box, max_size=30, unique=True),
    st.lists(box, max_size=4, unique=True),
    st.integers(4, 24),  # num_rois
    st.sampled_from([0.25, 0.5, 1.0]),  # fg_fraction
    st.sampled_from([(0.1, 0.5), (0.0, 0.5), (0.0, 0.3)]),  # bg_iou
    st.integers(0, 5),  # seed
)


def iou(a: Box, b: Box) -> float:
    inner = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return inner / (sum(areas) - inner)


def whole(row: Tensor) -> Box:
    x1, y1, x2, y2 = (int(v) for v in row.tolist())
    return x1, y1, x2, y2


@settings(max_examples=60, deadline=None)
@given(cases)
def test_every_sample_keeps_the_rules(
    case: tuple[list[Box], list[Box], int, float, tuple[float, float], int],
) -> None:
    proposals, gt, num_rois, fg_fraction, bg_iou, seed = case
    labels = torch.arange(1, len(gt) + 1)
    sample = sample_rois(
        torch.tensor(proposals, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(gt, dtype=torch.float32).reshape(-1, 4),
        labels,
        num_rois=num_rois,
        fg_fraction=fg_fraction,
        bg_iou=bg_iou,
        generator=torch.Generator().manual_seed(seed),
    )
    best = {c: max((iou(c, g) for g in gt), default=0.0) for c in (*proposals, *gt)}
    candidates = [*proposals, *gt]
    num_fg = sum(best[c] >= 0.5 for c in candidates)
    num_bg = sum(bg_iou[0] <= best[c] < bg_iou[1] for c in candidates)
    drawn_fg = min(num_fg, round(fg_fraction * num_rois))
    assert int((sample.labels > 0).sum()) == drawn_fg
    assert len(sample.labels) == drawn_fg + min(num_bg, num_rois - drawn_fg)
    assert sample.labels.tolist() == sorted(sample.labels.tolist(), key=lambda u: u == 0)
    for row, label, matched in zip(
        sample.rois, sample.labels.tolist(), sample.gt_boxes, strict=True
    ):
        roi = whole(row)
        if label:
            assert best[roi] >= 0.5
            assert whole(matched) == gt[label - 1]
            assert iou(roi, gt[label - 1]) == best[roi]
        else:
            assert bg_iou[0] <= best[roi] < bg_iou[1]
    drawn = [whole(row) for row in sample.rois]
    assert all(drawn.count(roi) <= candidates.count(roi) for roi in drawn)


@settings(max_examples=30, deadline=None)
@given(cases)
def test_the_sample_depends_on_the_seed_and_not_on_the_labels(
    case: tuple[list[Box], list[Box], int, float, tuple[float, float], int],
) -> None:
    proposals, gt, num_rois, fg_fraction, bg_iou, seed = case
    samples = [
        sample_rois(
            torch.tensor(proposals, dtype=torch.float32).reshape(-1, 4),
            torch.tensor(gt, dtype=torch.float32).reshape(-1, 4),
            labels,
            num_rois=num_rois,
            fg_fraction=fg_fraction,
            bg_iou=bg_iou,
            generator=torch.Generator().manual_seed(seed),
        )
        for labels in (torch.ones(len(gt), dtype=torch.int64), torch.arange(1, len(gt) + 1))
    ]
    assert torch.equal(samples[0].rois, samples[1].rois)
    assert torch.equal(samples[0].gt_boxes, samples[1].gt_boxes)
    assert torch.equal(samples[0].labels > 0, samples[1].labels > 0)
