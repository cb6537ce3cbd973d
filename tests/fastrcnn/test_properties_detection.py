"""Properties of every output of postprocessing, compared with suppression in plain loops."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastrcnn.boxes import flip
from fastrcnn.config import FastRCNNConfig
from fastrcnn.detection import Detections, postprocess

SIZE = (20, 24)  # height, width
quick = settings(max_examples=40, deadline=None)
Box = tuple[float, ...]
coordinate = st.integers(-4, 28)
box = (
    st.tuples(coordinate, coordinate, coordinate, coordinate)
    .filter(lambda c: c[0] != c[2] and c[1] != c[3])
    .map(lambda c: (min(c[0], c[2]), min(c[1], c[3]), max(c[0], c[2]), max(c[1], c[3])))
)
cases = st.tuples(
    st.lists(box, max_size=14),
    st.integers(0, 2**20),  # seed of the logits: no two scores are equal
    st.sampled_from([0.0, 0.3, 0.5, 0.9]),  # nms_threshold
    st.sampled_from([0.0, 0.05, 0.3]),  # score_threshold
    st.sampled_from([None, 3]),  # detections_per_class
    st.sampled_from([None, 4]),  # detections_per_image
)
Case = tuple[list[Box], int, float, float, int | None, int | None]


def inputs(case: Case) -> tuple[Tensor, Tensor, Tensor, FastRCNNConfig]:
    boxes, seed, nms, score, per_class, per_image = case
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(boxes), 3, generator=generator) * 2
    deltas = torch.randn(len(boxes), 12, generator=generator) * 0.1
    config = FastRCNNConfig.paper(
        2,
        nms_threshold=nms,
        score_threshold=score,
        detections_per_class=per_class,
        detections_per_image=per_image,
    )
    return torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), logits, deltas, config


def found(boxes: Tensor, logits: Tensor, deltas: Tensor, config: FastRCNNConfig) -> Detections:
    return of_one(boxes, logits, deltas, config, config.score_threshold)


def of_one(
    boxes: Tensor, logits: Tensor, deltas: Tensor, config: FastRCNNConfig, score_threshold: float
) -> Detections:
    (detections,) = postprocess([boxes], logits, deltas, [SIZE], config, score_threshold)
    return detections


def iou(a: Box, b: Box) -> float:
    inner = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return inner / (sum(areas) - inner)


def by_hand(boxes: Tensor, logits: Tensor, config: FastRCNNConfig) -> list[tuple[float, int, Box]]:
    """Compute score, label and box of each detection without regression, by the paper's rules, box by box."""
    scores = torch.softmax(logits, dim=1).tolist()
    height, width = SIZE
    kept: list[tuple[float, int, Box]] = []
    for label in (1, 2):
        ranked = sorted(((s[label], i) for i, s in enumerate(scores)), reverse=True)
        ranked = ranked[: config.detections_per_class]
        chosen: list[Box] = []
        for score, i in ranked:
            x1, y1, x2, y2 = boxes[i].tolist()
            clipped = max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)
            if score <= config.score_threshold:
                continue
            if clipped[0] >= clipped[2] or clipped[1] >= clipped[3]:
                continue
            if all(iou(clipped, other) <= config.nms_threshold for other in chosen):
                chosen.append(clipped)
                kept.append((score, label, clipped))
    return sorted(kept, reverse=True)[: config.detections_per_image]


@quick
@given(cases)
def test_detections_equal_those_of_plain_loops(case: Case) -> None:
    boxes, logits, _, config = inputs(case)
    result = found(boxes, logits, torch.zeros(len(boxes), 12), config)
    expected = by_hand(boxes, logits, config)
    assert result.labels.tolist() == [label for _, label, _ in expected]
    assert result.boxes.tolist() == [list(b) for _, _, b in expected]
    torch.testing.assert_close(result.scores, torch.tensor([s for s, _, _ in expected]).reshape(-1))


@quick
@given(st.lists(cases, min_size=1, max_size=3))
def test_an_image_has_the_same_detections_among_others(several: list[Case]) -> None:
    config = inputs(several[0])[-1]
    own = [inputs(case)[:3] for case in several]
    logits, deltas = (torch.cat([case[i] for case in own]) for i in (1, 2))
    sizes = [SIZE] * len(own)
    together = postprocess(
        [c[0] for c in own], logits, deltas, sizes, config, config.score_threshold
    )
    for case, detections in zip(own, together, strict=True):
        for one, other in zip(found(*case, config), detections, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


@quick
@given(cases)
def test_every_output_keeps_the_rules(case: Case) -> None:
    boxes, logits, deltas, config = inputs(case)
    result = found(boxes, logits, deltas, config)
    height, width = SIZE
    assert bool((result.scores > config.score_threshold).all())
    assert result.scores.tolist() == sorted(result.scores.tolist(), reverse=True)
    assert set(result.labels.tolist()) <= {1, 2}
    assert bool((result.boxes >= 0).all())
    assert bool((result.boxes[:, 0] < result.boxes[:, 2]).all())
    assert bool((result.boxes[:, 1] < result.boxes[:, 3]).all())
    assert bool((result.boxes[:, 2] <= width).all())
    assert bool((result.boxes[:, 3] <= height).all())
    if config.detections_per_image is not None:
        assert len(result.labels) <= config.detections_per_image
    rows = list(zip(result.labels.tolist(), result.boxes.tolist(), strict=True))
    for n, (label, first) in enumerate(rows):
        for other, second in rows[:n]:
            assert other != label or iou(first, second) <= config.nms_threshold + 1e-5


@quick
@given(cases)
def test_the_order_of_the_proposals_does_not_matter(case: Case) -> None:
    boxes, logits, deltas, config = inputs(case)
    order = torch.randperm(len(boxes), generator=torch.Generator().manual_seed(case[1]))
    first = found(boxes, logits, deltas, config)
    mixed = found(boxes[order], logits[order], deltas[order], config)
    for one, other in zip(first, mixed, strict=True):
        torch.testing.assert_close(one, other)


@quick
@given(cases)
def test_a_mirrored_image_has_mirrored_detections(case: Case) -> None:
    boxes, logits, _, config = inputs(case)
    none = torch.zeros(len(boxes), 12)
    first = found(boxes, logits, none, config)
    mirrored = found(flip(boxes, SIZE[1]), logits, none, config)
    torch.testing.assert_close(flip(mirrored.boxes, SIZE[1]), first.boxes)
    assert torch.equal(mirrored.labels, first.labels)


@quick
@given(cases)
def test_a_higher_score_threshold_keeps_the_first_detections(case: Case) -> None:
    boxes, logits, deltas, config = inputs(case)
    all_of_them = found(boxes, logits, deltas, config)
    fewer = of_one(boxes, logits, deltas, config, 0.5)
    assert len(fewer.scores) == int((all_of_them.scores > 0.5).sum())
    assert torch.equal(fewer.boxes, all_of_them.boxes[: len(fewer.boxes)])


def test_overlap_of_exactly_the_threshold_is_kept() -> None:
    # facts, oracle 8: the reference's compiled code suppresses it, torchvision and the contract keep it.
    boxes = torch.tensor([[0.0, 0, 10, 10], [0.0, 0, 10, 5]])
    logits = torch.tensor([[0.0, 2, -9], [0.0, 1, -9]])
    for threshold, kept in ((0.5, 2), (0.4999, 1)):
        config = FastRCNNConfig.paper(2, nms_threshold=threshold, score_threshold=0.1)
        assert len(found(boxes, logits, torch.zeros(2, 12), config).boxes) == kept
