"""What the boxes of a report are, and which objects are missed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fastrcnn.metrics import ImageDetections, ImageGroundTruth, match_boxes
from pipeline.results.truth import FALSE, SECOND, TRUE, WRONG, Judged, judge

A, B, C = (0.0, 0.0, 10.0, 10.0), (20.0, 0.0, 30.0, 10.0), (50.0, 50.0, 60.0, 60.0)


@pytest.fixture
def judged() -> Judged:
    """Image x: a cat found twice, a dog taken for a cat, a false dog. Image y: a dog that is missed."""
    truth = [
        ImageGroundTruth(boxes=np.array([A, B]), labels=np.array([1, 2])),
        ImageGroundTruth(boxes=np.array([C]), labels=np.array([2])),
    ]
    found = ImageDetections(
        boxes=np.array([A, A, B, C]),
        labels=np.array([1, 1, 1, 2]),
        scores=np.array([0.9, 0.8, 0.7, 0.6]),
    )
    nothing = ImageDetections(boxes=np.zeros((0, 4)), labels=np.zeros(0, int), scores=np.zeros(0))
    result: Any = SimpleNamespace(
        matches=match_boxes(truth, [found, nothing], 2),
        classes=("cat", "dog"),
        image_uris=("x.jpg", "y.jpg"),
    )
    return Judged.of(result)


def test_each_box_has_its_kind_and_its_object(judged: Judged) -> None:
    image = judged.image("x.jpg")
    assert image is not None
    assert image.objects == [[0, *A], [1, *B]]
    assert list(image.outcomes.values()) == [(TRUE, 0), (SECOND, -1), (WRONG, 1), (FALSE, -1)]
    box: list[Any] = [0, 0.9]
    judge(image, [(("cat", 0.9, *A), box)])
    assert box == [0, 0.9, TRUE, 0]
    unknown: list[Any] = []
    judge(image, [(("cat", 0.1, *C), unknown)])
    assert unknown == [None, -1]
    second = judged.image("y.jpg")
    assert second is not None
    assert (second.objects, second.outcomes) == ([[1, *C]], {})
    assert judged.image("z.jpg") is None


def test_images_with_mistakes_are_listed_by_kind(judged: Judged) -> None:
    half = np.array([0.5, 0.5])
    # Wrong classes, false boxes, missed objects, true boxes. Each image misses one.
    assert judged.examples(half, 9) == [["x.jpg"], ["x.jpg"], ["x.jpg", "y.jpg"], ["x.jpg"]]
    assert judged.examples(np.array([0.95, 0.95]), 1) == [[], [], ["x.jpg"], []]


def test_the_counts_are_those_at_the_points(judged: Judged) -> None:
    figures = judged.figures(np.array([0.5, 0.65]))
    assert (figures["true"], figures["false"], figures["missed"]) == (1, 2, 2)
    assert figures["counts"] == [(1, 2, 0), (0, 0, 2)]
    assert figures["confusion"] == [[-1, 0, 1], [0, 0, 1], [1, -1, 1], [1, 0, 1]]
