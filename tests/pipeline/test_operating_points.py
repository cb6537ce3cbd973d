from __future__ import annotations

from typing import Any

import pytest

from pipeline.detections import min_scores

CLASSES = ("cat", "dog")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, [0.5, 0.5]),
        ({"operating_points": None}, [0.5, 0.5]),
        ({"operating_points": {}}, [0.5, 0.5]),
        ({"operating_points": {"dog": 0.25}}, [0.5, 0.25]),
        ({"operating_points": {"dog": 0, "cat": None}}, [0.5, 0]),
        ({"operating_points": {"dog": 0.75, "cat": -1.5}}, [-1.5, 0.75]),  # an SVM's score
    ],
)
def test_a_class_without_an_operating_point_starts_at_a_half(
    config: dict[str, Any], expected: list[float]
) -> None:
    assert min_scores(config, CLASSES, "model").tolist() == expected


@pytest.mark.parametrize(
    "points", [[0.5, 0.5], {"bird": 0.5}, {"cat": "0.5"}, {"cat": True}, {"cat": float("nan")}, 0.5]
)
def test_operating_points_of_another_form_are_refused(points: object) -> None:
    with pytest.raises(
        ValueError, match=r"^model: operating_points in config\.json is .*: expected scores for"
    ):
        min_scores({"operating_points": points}, CLASSES, "model")
