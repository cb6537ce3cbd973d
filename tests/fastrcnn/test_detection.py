"""Postprocessing of hand-made logits, and detect with a small random model."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastrcnn import detection
from fastrcnn.boxes import flip, transpose
from fastrcnn.config import FastRCNNConfig, RPNConfig
from fastrcnn.detection import Detections, ScoredImage, detect, propose_learned
from fastrcnn.model import FastRCNN, with_config
from fastrcnn.suppression import distinct
from fastrcnn.transform import batch_images, to_rois


@pytest.fixture(params=["cpu", "cuda"])
def passes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Group images as on a CPU (one by one) and as on a GPU (equal canvases together)."""
    groups, device = detection._groups, torch.device(request.param)
    monkeypatch.setattr(
        detection, "_groups", lambda images, config, _: groups(images, config, device)
    )


def config(**changes: object) -> FastRCNNConfig:
    numbers = {"fc_dim": 16, "scale": 64, "max_size": 107} | changes
    return FastRCNNConfig.modern(2, backbone="tiny", **numbers)


def postprocess(
    boxes: Tensor,
    logits: Tensor,
    deltas: Tensor,
    size: tuple[int, int],
    rules: FastRCNNConfig,
    score_threshold: float,
) -> Detections:
    """Postprocess the outputs of one image."""
    (found,) = detection.postprocess([boxes], logits, deltas, [size], rules, score_threshold)
    return found


def logits_of(*scores: tuple[float, float]) -> Tensor:
    """Make logits whose softmax gives these scores for classes 1 and 2."""
    rows = [[max(1 - a - b, 1e-9), a, b] for a, b in scores]
    return torch.tensor(rows).clamp(min=1e-9).log()


def test_suppression_is_per_class() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [1.0, 0, 11, 10], [50.0, 50, 60, 60]])
    logits = logits_of((0.9, 0.0), (0.1, 0.8), (0.7, 0.0))
    found = postprocess(boxes, logits, torch.zeros(3, 12), (100, 100), config(), 0.05)
    assert found.labels.tolist() == [
        1,
        2,
        1,
    ]  # box 1's class 1 (.1) is suppressed by box 0, its class 2 is not
    torch.testing.assert_close(found.scores, torch.tensor([0.9, 0.8, 0.7]))
    torch.testing.assert_close(found.boxes, boxes)


def one_class_each(
    found: Detections, rules: FastRCNNConfig, score_threshold: float | None = None
) -> Detections:
    return detection.one_class_each(ScoredImage(found, 0), rules, score_threshold).detections


SAME_CURVES = ((1.0, 0.0), (1.0, 0.0))


def test_of_two_classes_on_an_object_the_worse_gets_what_is_left_of_one() -> None:
    # IoU of boxes 0 and 1: 9 / 11 = .82. Box 2 lies apart.
    boxes = torch.tensor([[0.0, 0, 10, 10], [1.0, 0, 11, 10], [50.0, 50, 60, 60]])
    inputs = (boxes, logits_of((0.9, 0.0), (0.1, 0.8), (0.3, 0.6)), torch.zeros(3, 12), (100, 100))
    for iou, scores in ((0.8, [0.9, 0.6, 0.3, 0.1]), (0.85, [0.9, 0.8, 0.6, 0.3])):
        rules = config(one_class_iou=iou, calibration=SAME_CURVES)
        found = one_class_each(postprocess(*inputs, rules, 0.05), rules)
        torch.testing.assert_close(found.scores, torch.tensor(scores))
        assert found.labels.tolist() == ([1, 2, 1, 2] if iou == 0.8 else [1, 2, 2, 1])
    rules = config(one_class_iou=0.8, calibration=SAME_CURVES)
    high = one_class_each(postprocess(*inputs, rules, 0.05), rules, 0.2)
    torch.testing.assert_close(high.scores, torch.tensor([0.9, 0.6, 0.3]))
    rules = config(one_class_iou=0.8)  # not calibrated
    plain = one_class_each(postprocess(*inputs, rules, 0.05), rules)
    torch.testing.assert_close(plain.scores, torch.tensor([0.9, 0.8, 0.6, 0.3]))


def test_the_better_class_is_the_one_with_the_better_calibrated_score() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [1.0, 0, 11, 10]])
    logits = logits_of((0.8, 0.0), (0.0, 0.7))
    # Class 1 is overconfident: logit(.8) - 2 = -.61, sigmoid .35. Class 2 leaves .3.
    rules = config(one_class_iou=0.6, calibration=((1.0, -2.0), (1.0, 0.0)))
    found = postprocess(boxes, logits, torch.zeros(2, 12), (100, 100), rules, 0.05)
    found = one_class_each(found, rules)
    assert found.labels.tolist() == [2, 1]
    torch.testing.assert_close(found.scores, torch.tensor([0.7, 0.3]))


def test_iou_exactly_at_the_threshold_is_kept() -> None:
    # Continuous widths: 5 of 15 covered, IoU 1/3; "+1" widths would say 3/8.
    boxes = torch.tensor([[0.0, 0, 10, 10], [5.0, 0, 15, 10]])
    logits = logits_of((0.9, 0.0), (0.8, 0.0))
    kept = postprocess(
        boxes, logits, torch.zeros(2, 12), (100, 100), config(nms_threshold=0.34), 0.05
    )
    dropped = postprocess(
        boxes, logits, torch.zeros(2, 12), (100, 100), config(nms_threshold=0.3), 0.05
    )
    assert (len(kept.boxes), len(dropped.boxes)) == (2, 1)
    nine = torch.tensor([[0.0, 0, 9, 9], [5.0, 0, 14, 9]])  # IoU 2/7 continuous, 1/3 with "+1"
    both = postprocess(
        nine, logits, torch.zeros(2, 12), (100, 100), config(nms_threshold=0.3), 0.05
    )
    assert len(both.boxes) == 2


def test_boxes_are_clipped_and_those_outside_vanish() -> None:
    boxes = torch.tensor([[-5.0, -5, 20, 20], [200.0, 0, 210, 10]])
    found = postprocess(
        boxes, logits_of((0.9, 0), (0.8, 0)), torch.zeros(2, 12), (30, 100), config(), 0.05
    )
    assert found.boxes.tolist() == [[0, 0, 20, 20]]


def test_the_papers_hundred_best_of_a_class_are_kept_before_suppression() -> None:
    paper = FastRCNNConfig.paper(2, backbone="tiny", fc_dim=16, detections_per_class=3)
    boxes = torch.tensor([[20.0 * i, 0, 20.0 * i + 10, 10] for i in range(6)])
    logits = logits_of(*[(0.1 * (i + 1), 0.3) for i in range(6)])
    found = postprocess(boxes, logits, torch.zeros(6, 12), (10, 200), paper, 0.0)
    assert sorted(found.boxes[found.labels == 1, 0].tolist()) == [60, 80, 100]


@pytest.mark.usefixtures("passes")
@pytest.mark.parametrize(
    "views", [{}, {"test_flips": True, "vertical_flips": True, "quarter_turns": True}]
)
def test_an_image_without_proposals_has_no_detections_and_keeps_its_place(
    views: dict[str, bool],
) -> None:
    torch.manual_seed(0)
    model = FastRCNN(config(**views)).eval()
    images = [torch.randint(0, 256, (40, 60, 3), dtype=torch.uint8) for _ in range(3)]
    proposals = torch.tensor([[0.0, 0, 30, 30], [10.0, 10, 50, 35]])
    found = detect(model, images, [proposals, torch.zeros(0, 4), proposals])
    assert [len(f.boxes) > 0 for f in found] == [True, False, True]
    assert found[1].boxes.shape == (0, 4)
    only = detect(model, images[1:2], [torch.zeros(0, 4)])
    assert only[0].scores.shape == (0,)
    assert detect(model, [], []) == []


@pytest.mark.usefixtures("passes")
def test_an_image_gets_the_same_boxes_alone_and_among_others() -> None:
    torch.manual_seed(0)
    model = FastRCNN(config(score_threshold=0.2)).eval()
    sizes = [(40, 60), (60, 40), (41, 60), (90, 30), (40, 58)]
    images = [torch.randint(0, 256, (*size, 3), dtype=torch.uint8) for size in sizes]
    proposals = []
    for height, width in sizes:
        corner = torch.rand(20, 2) * torch.tensor([width, height]) * 0.5
        proposals.append(torch.cat([corner, corner + 12], dim=1))
    together = detect(model, images, proposals)
    for image, own, expected in zip(images, proposals, together, strict=True):
        (alone,) = detect(model, [image], [own])
        assert len(alone.boxes) > 0
        torch.testing.assert_close(alone, expected, atol=1e-4, rtol=0)


def test_numpy_images_are_accepted_and_missing_proposals_refused() -> None:
    model = FastRCNN(config()).eval()
    image = torch.zeros(40, 40, 3, dtype=torch.uint8)
    box = torch.tensor([[0.0, 0, 30, 30]])
    a, b = detect(model, [image.numpy(), image], [box.numpy(), box])
    torch.testing.assert_close(a.boxes, b.boxes)
    frozen = image.numpy().copy()
    frozen.setflags(write=False)  # as Ray's object store hands it out; warnings are errors here
    (c,) = detect(model, [frozen], [box])
    torch.testing.assert_close(a.boxes, c.boxes)
    with pytest.raises(ValueError, match="2 images"):
        detect(model, [image, image], [box])


def test_chunks_of_rois_change_nothing() -> None:
    torch.manual_seed(0)
    model = FastRCNN(config()).eval()
    image = torch.randint(0, 256, (64, 64, 3), dtype=torch.uint8)
    corner = torch.rand(50, 2) * 30
    proposals = torch.cat([corner, corner + 20], dim=1)
    (whole,) = detect(model, [image], [proposals])
    model.rois_per_chunk = 7
    (chunked,) = detect(model, [image], [proposals])
    torch.testing.assert_close(whole.scores, chunked.scores)
    torch.testing.assert_close(whole.boxes, chunked.boxes)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 300), st.integers(1, 300)), max_size=12))
def test_groups_hold_every_image_once_and_none_is_padded_more_than_alone(
    sizes: list[tuple[int, int]],
) -> None:
    rules = config(test_scales=(48, 90), resize="floor")
    images = [torch.zeros(*size, 3, dtype=torch.uint8) for size in sizes]
    groups = detection._groups(images, rules, torch.device("cuda"))
    assert sorted(i for group in groups for i in group) == list(range(len(sizes)))
    for group in groups:
        for scale in (64, 48, 90):
            shapes = {
                batch_images([images[i]], scale, rules.max_size, resize="floor").images.shape[2:]
                for i in group
            }
            assert len(shapes) == 1


def test_a_proposal_near_a_better_one_is_removed_and_the_rest_keep_their_order() -> None:
    ten = [0.0, 0.0, 10.0, 10.0]
    nine = [0.0, 0.0, 10.0, 9.0]  # IoU .9 with ten
    eight = [0.0, 0.0, 10.0, 8.0]  # .8 with ten, 8/9 with nine
    far = [50.0, 50.0, 60.0, 60.0]
    proposals = torch.tensor([far, ten, nine, eight, far])
    assert distinct([proposals], 0.85)[0].tolist() == [
        far,
        ten,
        eight,
    ]  # nine is gone, so eight may stay
    assert distinct([proposals], 0.75)[0].tolist() == [far, ten]
    assert distinct([proposals.flip(0)], 0.85)[0].tolist() == [
        far,
        eight,
        ten,
    ]  # the better ranked stays
    assert distinct([proposals], 0.95)[0].tolist() == [far, ten, nine, eight]
    assert distinct([proposals], None)[0] is proposals
    assert distinct([torch.zeros(0, 4)], 0.9)[0].shape == (0, 4)


def test_ranks_decide_among_thousands_of_proposals() -> None:
    corner = torch.arange(5000.0)[:, None] * torch.tensor([[20.0, 0.0]])
    apart = torch.cat([corner, corner + 10], dim=1)
    proposals = torch.cat([apart, apart.flip(0)])
    assert torch.equal(distinct([proposals], 0.9)[0], apart)


@pytest.mark.usefixtures("passes")
def test_near_duplicates_do_not_reach_the_head() -> None:
    torch.manual_seed(0)
    model = FastRCNN(config(proposal_nms=0.9, score_threshold=0.0, nms_threshold=1.0)).eval()
    image = torch.randint(0, 256, (64, 64, 3), dtype=torch.uint8)
    few = torch.tensor([[0.0, 0, 30, 30], [20.0, 20, 60, 50]])
    many = torch.cat([few, few + 0.1])
    (a,), (b,) = detect(model, [image], [few]), detect(model, [image], [many])
    assert len(a.boxes) == 4  # two proposals, two classes
    torch.testing.assert_close(b.boxes, a.boxes)
    torch.testing.assert_close(b.scores, a.scores)


def test_without_box_regression_the_proposals_are_the_boxes() -> None:
    boxes = torch.tensor([[-5.0, 0, 10, 10], [50.0, 50, 60, 60]])
    logits = logits_of((0.9, 0.0), (0.0, 0.8))
    deltas = torch.full((2, 12), 0.7)
    rules = config(box_regression=False)
    found = postprocess(boxes, logits, deltas, (100, 100), rules, 0.05)
    assert found.boxes.tolist() == [[0, 0, 10, 10], [50, 50, 60, 60]]
    assert found.labels.tolist() == [1, 2]


def test_the_margins_of_svms_are_the_scores() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [50.0, 50, 60, 60]])
    margins = torch.tensor([[0.0, 1.5, -2.0], [0.0, -1.0, 0.25]])
    rules = config(classifier="svm")
    found = postprocess(boxes, margins, torch.zeros(2, 12), (100, 100), rules, -1.05)
    assert found.labels.tolist() == [1, 2, 1]
    assert found.scores.tolist() == [1.5, 0.25, -1.0]


def test_a_class_agnostic_box_is_given_to_each_class() -> None:
    torch.manual_seed(0)
    model = FastRCNN(config(class_agnostic=True, delta_std=(0.1, 0.1, 0.2, 0.2)))
    assert model.head.bbox_pred.out_features == 4
    with torch.no_grad():
        _, deltas = model(torch.randn(1, 3, 64, 64), torch.tensor([[0.0, 3, 3, 40, 40]]))
    assert deltas.shape == (1, 12)
    assert torch.equal(deltas[:, :4], deltas[:, 4:8])
    assert deltas.abs().sum() > 0


def test_a_cpu_takes_single_images_and_a_gpu_groups_of_equal_canvas() -> None:
    images = [torch.zeros(*size, 3, dtype=torch.uint8) for size in ((40, 60), (90, 30), (80, 118))]
    assert detection._groups(images, config(), torch.device("cpu")) == [[0], [1], [2]]
    assert detection._groups(images, config(), torch.device("cuda")) == [[0, 2], [1]]


TURNS: dict[str, tuple[dict[str, bool], Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "left to right": ({}, lambda image: image.flip(1), lambda boxes: flip(boxes, 90)),
    "upside down": (
        {"vertical_flips": True},
        lambda image: image.flip(0),
        lambda boxes: flip(boxes, 70, vertically=True),
    ),
    "transposed": ({"quarter_turns": True}, lambda image: image.transpose(0, 1), transpose),
}
"""For each flip or turn: the config that has it as a view, and how it changes an image 70 x 90 and boxes."""


@pytest.mark.parametrize("test_scales", [(), (48,)])
@pytest.mark.parametrize(
    "trained",
    [{}, {"vertical_flips": True}, {"vertical_flips": True, "quarter_turns": True}],
)
@pytest.mark.parametrize("turn", TURNS)
def test_with_all_views_a_turned_image_has_the_turned_boxes(
    turn: str, trained: dict[str, bool], test_scales: tuple[int, ...]
) -> None:
    """The outputs agree if, and only if, the views of the image and of its turned copy are the same."""
    torch.manual_seed(0)
    numbers = {"score_threshold": 0.0, "nms_threshold": 1.0, **trained}
    plain = FastRCNN(config(**numbers)).eval()
    model = with_config(plain, test_flips=True, test_scales=test_scales)
    image = torch.randint(0, 256, (70, 90, 3), dtype=torch.uint8)
    proposals = torch.tensor([[5.0, 8, 40, 50], [30, 20, 85, 66], [0, 0, 90, 70]])
    asked, turn_image, turn_boxes = TURNS[turn]
    (found,) = detect(model, [image], [proposals])
    (turned,) = detect(model, [turn_image(image)], [turn_boxes(proposals)])
    expected = turn_boxes(found.boxes)
    same = len(expected) == len(turned.boxes) and torch.allclose(turned.boxes, expected, atol=1e-3)
    assert same == (asked.items() <= trained.items())
    if same:
        torch.testing.assert_close(found.scores, turned.scores, rtol=1e-4, atol=1e-5)
    assert not torch.equal(detect(plain, [image], [proposals])[0].scores, found.scores)


@pytest.mark.parametrize("trained", [{}, {"vertical_flips": True}])
def test_an_image_is_not_mirrored_where_training_does_not_mirror(trained: dict[str, bool]) -> None:
    torch.manual_seed(0)
    numbers = {"score_threshold": 0.0, "nms_threshold": 1.0, "horizontal_flips": False, **trained}
    plain = FastRCNN(config(**numbers)).eval()
    model = with_config(plain, test_flips=True)
    image = torch.randint(0, 256, (70, 90, 3), dtype=torch.uint8)
    boxes = torch.tensor([[5.0, 8, 40, 50], [30, 20, 85, 66]])
    found, alone = (detect(m, [image], [boxes])[0].scores for m in (model, plain))
    (mirrored,) = detect(model, [image.flip(1)], [flip(boxes, 90)])
    (turned,) = detect(model, [image.flip(0)], [flip(boxes, 70, vertically=True)])
    assert not torch.allclose(mirrored.scores, found, atol=1e-5)
    assert torch.equal(found, alone) == (not trained)
    assert torch.allclose(turned.scores, found, atol=1e-5) == bool(trained)


def test_an_rpns_proposals_are_classified_in_the_mirrored_view_too() -> None:
    torch.manual_seed(0)
    rpn = RPNConfig(max_proposals_test=10)
    numbers = {"score_threshold": 0.0, "nms_threshold": 1.0}
    model = FastRCNN(config(test_flips=True, rpn=rpn, **numbers)).eval()
    image = torch.randint(0, 256, (70, 90, 3), dtype=torch.uint8)
    (own,) = propose_learned(model, [image])
    (found,), (given,) = detect(model, [image]), detect(model, [image], [own.boxes])
    torch.testing.assert_close(found.boxes, given.boxes)
    torch.testing.assert_close(found.scores, given.scores)


def test_test_scales_share_the_proposals_of_the_first_scale_and_average_the_outputs() -> None:
    torch.manual_seed(0)
    rpn = RPNConfig(max_proposals_test=10)
    rules = config(rpn=rpn, score_threshold=0.0, nms_threshold=1.0, test_scales=(48, 90))
    model = FastRCNN(rules).eval()
    image = torch.randint(0, 256, (70, 90, 3), dtype=torch.uint8)
    (proposed,) = propose_learned(model, [image])
    assert rules.scale not in rules.test_scales
    outputs = []
    for scale in (rules.scale, 48, 90):
        batch = batch_images([image], scale, rules.max_size, torch.device("cpu"))
        with torch.inference_mode():
            outputs.append(model(batch.images, to_rois([proposed.boxes], batch.factors)))
    logits, deltas = (torch.stack(own).mean(dim=0) for own in zip(*outputs, strict=True))
    expected = postprocess(proposed.boxes, logits, deltas, (70, 90), rules, 0.0)
    (found,) = detect(model, [image])
    torch.testing.assert_close(found.boxes, expected.boxes)
    torch.testing.assert_close(found.scores, expected.scores)
    assert len(found.scores) > 0


@pytest.mark.parametrize(
    ("numbers", "reason"),
    [
        ({"scale": 48, "test_scales": (48,)}, "scale=48: expected each scale once"),
        ({"scale": 48, "test_scales": (64, 64)}, "expected each scale once"),
        ({"scale": 48, "test_scales": (64,), "max_size": 50}, "max_size"),
        ({"pyramid": (48, 64), "test_scales": (96,)}, "with a pyramid, tests use its scales"),
    ],
)
def test_useless_test_scales_are_refused(numbers: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        config(**numbers)


CURVES = ((2.0, -5.0), (1.0, 1.0))


def test_calibration_changes_scores_after_suppression_and_loses_no_box() -> None:
    """The first class is doubted, the second is believed: they change places. .06 is above the cut of .05
    before calibration and far below it afterwards."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [20.0, 0, 30, 10], [50.0, 50, 60, 60]])
    logits = logits_of((0.8, 0.0), (0.0, 0.7), (0.06, 0.0))
    raw = postprocess(boxes, logits, torch.zeros(3, 12), (100, 100), config(), 0.05)
    rules = config(calibration=CURVES)
    found = postprocess(boxes, logits, torch.zeros(3, 12), (100, 100), rules, 0.05)
    assert raw.labels.tolist() == [1, 2, 1]
    assert found.labels.tolist() == [2, 1, 1]
    assert found.boxes[:, 0].tolist() == [20, 0, 50]
    # logits of .8, .7, .06: ln 4, ln(7/3), ln(3/47); odds e 7/3, e^-5 16, e^-5 (3/47)^2.
    odds = (2.718282 * 7 / 3, 0.0067379 * 16, 0.0067379 * (3 / 47) ** 2)
    assert found.scores.tolist() == pytest.approx([x / (1 + x) for x in odds], rel=1e-4)


def test_a_threshold_that_a_caller_gives_is_one_after_calibration() -> None:
    torch.manual_seed(0)
    model = FastRCNN(config(score_threshold=0.0, calibration=((1.5, -0.5), (0.7, 0.4)))).eval()
    image = torch.randint(0, 256, (60, 90, 3), dtype=torch.uint8)
    proposals = torch.rand(40, 4) * 20 + torch.tensor([0.0, 0, 40, 30])
    (every,) = detect(model, [image], [proposals])
    threshold = float(every.scores[len(every.scores) // 2]) - 1e-6
    (some,) = detect(model, [image], [proposals], score_threshold=threshold)
    above = every.scores > threshold
    assert 0 < len(some.scores) < len(every.scores)
    torch.testing.assert_close(some, Detections(*(part[above] for part in every)))


def test_calibrated_images_without_boxes_stay_empty() -> None:
    rules = config(calibration=CURVES)
    empty = postprocess(
        torch.zeros(0, 4), torch.zeros(0, 3), torch.zeros(0, 12), (9, 9), rules, 0.05
    )
    assert (empty.boxes.shape, empty.scores.shape, empty.labels.shape) == ((0, 4), (0,), (0,))
