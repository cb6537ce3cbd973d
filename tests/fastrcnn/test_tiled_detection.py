"""Boxes of tiles and of the whole image, joined: by hand-made detections, and with a small random model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from fastrcnn.config import FastRCNNConfig, RPNConfig
from fastrcnn.detection import Detections, ScoredImage, detect, detect_counting
from fastrcnn.model import FastRCNN, with_config
from fastrcnn.tiled_detection import (
    MOST_DETECTIONS,
    detect_looks,
    detect_tiled,
    join_detections,
    looks_of,
    propose_tiled,
)
from fastrcnn.tiles import Tiling, Window

SIZE = (100, 180)
LEFT, RIGHT = (0, 0, 100, 100), (80, 0, 180, 100)
"""The two tiles of an image of `SIZE`, side 100 and overlap .2."""


def found(*rows: tuple[float, float, float, float, int, float]) -> Detections:
    """Make detections from rows x1, y1, x2, y2, label, score."""
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4].long(), table[:, 5])


def rules(**numbers: Any) -> FastRCNNConfig:
    return FastRCNNConfig.modern(2, backbone="tiny", **{"nms_threshold": 0.5, **numbers})


def joined(
    whole: Detections, left: Detections, right: Detections, **numbers: Any
) -> list[list[float]]:
    looks: list[tuple[Window | None, Detections]] = [(None, whole), (LEFT, left), (RIGHT, right)]
    boxes, labels, scores = join_detections(looks, SIZE, numbers.get("nms_threshold", 0.5))
    rows = zip(boxes.tolist(), labels.tolist(), scores.tolist(), strict=True)
    return [[*box, label, round(score, 4)] for box, label, score in rows]


def test_boxes_of_a_tile_move_into_the_image_and_are_suppressed_over_it() -> None:
    # The object is at x 85 to 95 of the image: at 85 to 95 of the left tile, at 5 to 15 of the right one.
    left, right = found((85, 10, 95, 20, 1, 0.8)), found((5, 10, 15, 20, 1, 0.9))
    assert joined(found(), left, right) == [[85, 10, 95, 20, 1, 0.9]]


def test_classes_do_not_suppress_each_other() -> None:
    left, right = found((85, 10, 95, 20, 1, 0.8)), found((5, 10, 15, 20, 2, 0.9))
    assert [row[4] for row in joined(found(), left, right)] == [2, 1]


def test_classes_are_compared_after_the_tiles_are_joined() -> None:
    """The left tile shows half of a truck (1), and a person (2) in front of it. The whole image has all
    of it. The half is left out while joining, and the whole truck is no rival of the person: IoU 30 / 90."""
    truck, half, person = (70, 10, 160, 20), (70, 10, 100, 20), (70, 10, 100, 20)
    config = rules(one_class_iou=0.6, calibration=((1.0, 0.0), (1.0, 0.0)))
    looks = {
        (100, 180): found((*truck, 1, 0.95)),
        (100, 100): found((*half, 1, 0.9), (*person, 2, 0.85)),
    }

    def run(images: Sequence[Any], _: object) -> list[ScoredImage]:
        return [ScoredImage(looks[i.shape[:2]] if i.any() else found(), 1) for i in images]

    pixels = np.zeros((*SIZE, 3), np.uint8)
    pixels[:, :80] = 1  # the right tile is empty
    (result,) = detect_looks(run, [pixels], None, Tiling(side=100), config)
    assert isinstance(result, ScoredImage)
    assert result.detections.scores.tolist() == pytest.approx([0.95, 0.85])


@pytest.mark.parametrize(("threshold", "scores"), [(None, [0.9, 0.1]), (0.2, [0.9])])
@pytest.mark.parametrize("side", [100, 300])
def test_an_object_has_one_class_with_tiles_and_without(
    side: int, threshold: float | None, scores: list[float]
) -> None:
    config = rules(one_class_iou=0.6, calibration=((1.0, 0.0), (1.0, 0.0)))
    twice = found((10, 10, 30, 30, 1, 0.8), (10, 10, 30, 31, 2, 0.9))

    def run(images: Sequence[Any], _: object) -> list[ScoredImage]:
        return [ScoredImage(twice if i.shape[1] == 180 else found(), 1) for i in images]

    pixels = np.zeros((*SIZE, 3), np.uint8)
    (result,) = detect_looks(
        run, [pixels], None, Tiling(side=side), config, score_threshold=threshold
    )
    assert isinstance(result, ScoredImage)
    assert result.detections.scores.tolist() == pytest.approx(scores)
    assert result.detections.labels.tolist() == [2, 1][: len(scores)]


def test_half_of_an_object_at_an_inner_edge_is_left_out_for_the_whole_one() -> None:
    # 60 px wide, so the left tile shows 30 px of it. IoU with the whole box: .5, not above the threshold.
    half, whole = found((70, 10, 100, 20, 1, 0.95)), found((70, 10, 130, 20, 1, 0.6))
    assert joined(whole, half, found()) == [[70, 10, 130, 20, 1, 0.6]]


def test_a_box_at_an_inner_edge_stays_where_no_box_of_its_class_covers_it() -> None:
    half = found((70, 10, 100, 20, 1, 0.95))
    other_class = found((70, 10, 130, 20, 2, 0.6))
    too_little = found((80, 10, 130, 20, 1, 0.6))  # 20 of 30 px of it
    assert len(joined(other_class, half, found())) == 2
    assert len(joined(too_little, half, found())) == 2
    enough = found((79, 10, 130, 20, 1, 0.6))  # 21 of 30 px are .7
    assert joined(enough, half, found()) == [[79, 10, 130, 20, 1, 0.6]]


def test_a_box_at_an_edge_of_the_image_is_no_half() -> None:
    # At the left and at the upper edge of the image, inside a larger box of its class.
    small, large = found((0, 0, 20, 20, 1, 0.9)), found((0, 0, 60, 60, 1, 0.6))
    assert len(joined(large, small, found())) == 2


def test_a_box_that_ends_a_hundredth_of_the_tile_from_its_edge_touches_it() -> None:
    whole = found((70, 10, 130, 20, 1, 0.6))
    assert len(joined(whole, found((70, 10, 99, 20, 1, 0.9)), found())) == 1
    assert len(joined(whole, found((70, 10, 98, 20, 1, 0.9)), found())) == 2


def test_of_two_parts_of_one_object_the_larger_one_stays() -> None:
    # An object of the whole overlap: x 80 to 100 in the left tile, x 80 to 103 in the right tile.
    left, right = found((80, 10, 100, 20, 1, 0.9)), found((0, 10, 23, 20, 1, 0.7))
    assert joined(found(), left, right, nms_threshold=0.95) == [[80, 10, 103, 20, 1, 0.7]]
    assert joined(found(), right=left, left=found(), nms_threshold=0.95) == [
        [160, 10, 180, 20, 1, 0.9]
    ]


def test_a_box_is_not_left_out_for_another_one_of_its_look() -> None:
    left = found((70, 10, 100, 20, 1, 0.9), (40, 0, 100, 60, 1, 0.5))
    assert len(joined(found(), left, found())) == 2


def test_an_image_keeps_so_many_boxes_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MOST_DETECTIONS < 2**15  # the column `detection` has 16 bits
    monkeypatch.setattr("fastrcnn.tiled_detection.MOST_DETECTIONS", 2)
    left = found((0, 0, 5, 5, 1, 0.3), (20, 0, 25, 5, 1, 0.9), (40, 0, 45, 5, 1, 0.5))
    assert [row[5] for row in joined(found(), left, found())] == [0.9, 0.5]


def model(**changes: Any) -> FastRCNN:
    torch.manual_seed(0)
    numbers: dict[str, Any] = {"fc_dim": 16, "scale": 64, "max_size": 107, "score_threshold": 0.0}
    config = FastRCNNConfig.modern(2, backbone="tiny", rpn=RPNConfig(), **numbers | changes)
    return FastRCNN(config).eval()


def image(height: int, width: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(height).integers(0, 255, (height, width, 3), np.uint8)


def test_an_image_no_larger_than_a_tile_is_detected_as_without_tiles() -> None:
    small = image(90, 100)
    plain, tiled = detect(model(), [small])[0], detect_tiled(model(tile=100), [small])[0]
    assert tiled.num_tiles == 0
    assert all(torch.equal(a, b) for a, b in zip(plain, tiled.detections, strict=True))
    assert detect_tiled(model(), [small])[0].num_tiles is None


def test_images_are_looked_at_whole_and_in_each_tile_a_few_at_a_time() -> None:
    seen: list[tuple[int, ...]] = []
    detector = model(tile=100)

    def run(pixels: Sequence[Any], proposals: Any) -> list[ScoredImage | str]:
        seen.append(tuple(one.shape[1] for one in pixels))
        return [*detect_counting(detector, pixels, proposals)]

    images = [image(100, 180), image(40, 50)]
    results = detect_looks(run, images, None, Tiling(side=100), rules(), looks_per_pass=3)
    assert seen == [(50, 100, 100), (180,)]  # like shapes follow each other
    assert [one.num_tiles for one in results if isinstance(one, ScoredImage)] == [2, 0]
    first = results[0]
    assert isinstance(first, ScoredImage)
    parts = detect_counting(detector, [images[0], images[0][:, :100], images[0][:, 80:]])
    looks = zip((None, LEFT, RIGHT), (part.detections for part in parts), strict=True)
    expected = join_detections([*looks], SIZE, 0.5)
    assert all(torch.equal(a, b) for a, b in zip(first.detections, expected, strict=True))
    assert first.num_proposals == sum(part.num_proposals for part in parts)


def test_a_look_that_fails_fails_its_image_only() -> None:
    detector = model()

    def run(pixels: Sequence[Any], proposals: Any) -> list[ScoredImage | str]:
        scored = detect_counting(detector, pixels, proposals)
        return ["no room" if p.shape[1] == 180 else s for p, s in zip(pixels, scored, strict=True)]

    results = detect_looks(run, [image(100, 180), image(40, 50)], None, Tiling(side=100), rules())
    assert results[0] == "no room"
    assert isinstance(results[1], ScoredImage)


def test_a_tile_takes_the_given_proposals_that_are_half_inside() -> None:
    given = np.array([[0, 0, 180, 100], [90, 0, 110, 10], [10, 10, 20, 20]], np.float32)
    looks = looks_of([image(100, 180)], [given], Tiling(side=100), most_whole=2)
    assert [look.window for look in looks] == [None, LEFT, RIGHT]
    whole, left, right = (look.proposals for look in looks)
    assert whole is not None
    assert left is not None
    assert right is not None
    assert whole.tolist() == given[:2].tolist()
    # 100 of 180 px of the first are in either tile.
    assert left.tolist() == [[0, 0, 100, 100], [90, 0, 100, 10], [10, 10, 20, 20]]
    assert right.tolist() == [[0, 0, 100, 100], [10, 0, 30, 10]]


def test_given_proposals_are_counted_once() -> None:
    given = np.array([[0, 0, 180, 100], [90, 0, 110, 10]], np.float32)
    tiled = with_config(model(), tile=100)
    (scored,) = detect_tiled(tiled, [image(100, 180)], [given])
    assert (scored.num_proposals, scored.num_tiles) == (2, 2)
    assert scored.detections.boxes[:, 2].max() <= 180


def test_learned_proposals_of_tiles_are_in_the_image() -> None:
    tiled, picture = model(tile=100), image(100, 180)
    (proposed,) = propose_tiled(tiled, [picture])
    parts = [
        propose_tiled(model(), [one])[0] for one in (picture, picture[:, :100], picture[:, 80:])
    ]
    assert len(proposed.scores) == sum(len(part.scores) for part in parts)
    assert proposed.scores.tolist() == sorted(proposed.scores.tolist(), reverse=True)
    right = parts[2].boxes + torch.tensor([80, 0, 80, 0])
    rows = {tuple(row) for row in proposed.boxes.tolist()}
    assert rows >= {tuple(row) for row in right.tolist()}
