from __future__ import annotations

import pickle
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline import Detections
from pipeline.detections import Detection
from pipeline.drawing.pictures import PALETTE

DETECTIONS = Detections(
    labels=["dog", "cat", "dog"],
    label_ids=[2, 1, 2],
    scores=[0.75, 0.5, 0.25],
    boxes=[[20, 30, 60, 50], [1, 2, 3, 4], [5, 6, 7, 8]],
)
NONE = Detections(labels=[], label_ids=[], scores=[], boxes=[])


def scores(detections: Detections) -> list[float]:
    return detections.scores.tolist()


def test_lists_become_arrays_of_the_documented_types() -> None:
    assert DETECTIONS.labels.tolist() == ["dog", "cat", "dog"]
    assert DETECTIONS.label_ids.dtype == np.int64
    assert DETECTIONS.scores.dtype == np.float32
    assert (DETECTIONS.boxes.dtype, DETECTIONS.boxes.shape) == (np.float32, (3, 4))
    assert (NONE.boxes.shape, NONE.labels.shape, NONE.label_ids.dtype) == ((0, 4), (0,), np.int64)


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"labels": ["dog"]}, "labels"),
        ({"label_ids": [[2, 1, 2]]}, "label_ids"),
        ({"boxes": np.zeros((4, 3))}, "boxes"),
        ({"boxes": []}, "boxes"),
        ({"scores": 0.5}, "labels"),
    ],
)
def test_arrays_whose_shapes_do_not_fit_together_are_refused(
    changed: dict[str, Any], name: str
) -> None:
    arrays = {n: getattr(DETECTIONS, n) for n in ("labels", "label_ids", "scores", "boxes")}
    with pytest.raises(ValueError, match=rf"^{name} has shape .* expected labels, label_ids and"):
        Detections(**(arrays | changed))


def test_an_array_cannot_be_replaced() -> None:
    with pytest.raises(FrozenInstanceError):
        DETECTIONS.scores = np.zeros(3, np.float32)  # type: ignore[misc]


def test_iteration_gives_plain_values_one_detection_after_the_other() -> None:
    assert len(DETECTIONS) == 3
    assert list(DETECTIONS) == [
        Detection("dog", 2, 0.75, (20.0, 30.0, 60.0, 50.0)),
        Detection("cat", 1, 0.5, (1.0, 2.0, 3.0, 4.0)),
        Detection("dog", 2, 0.25, (5.0, 6.0, 7.0, 8.0)),
    ]
    assert {type(value) for one in DETECTIONS for value in one} == {str, int, float, tuple}
    assert (len(NONE), list(NONE)) == (0, [])


def test_an_integer_index_gives_one_detection() -> None:
    assert DETECTIONS[1] == Detection("cat", 1, 0.5, (1.0, 2.0, 3.0, 4.0))
    assert DETECTIONS[-1].score == DETECTIONS[np.int64(2)].score == 0.25
    for place in (3, -4):
        with pytest.raises(IndexError):
            DETECTIONS[place]


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        (slice(1, None), [0.5, 0.25]),
        (slice(None, None, -1), [0.25, 0.5, 0.75]),
        ([2, 0], [0.25, 0.75]),
        ([], []),
        (np.array([1]), [0.5]),
        ([True, False, True], [0.75, 0.25]),
        (DETECTIONS.labels == "dog", [0.75, 0.25]),
        (DETECTIONS.scores > 1, []),
    ],
)
def test_slices_masks_and_lists_give_detections(index: Any, expected: list[float]) -> None:
    chosen = DETECTIONS[index]
    assert scores(chosen) == expected
    whole = {one.score: one for one in DETECTIONS}
    assert list(chosen) == [whole[score] for score in expected]


@pytest.mark.parametrize("index", [True, "dog", np.array(False), None])
def test_an_invalid_index_is_refused(index: Any) -> None:
    with pytest.raises(TypeError, match=r"^the index is .*: expected an integer, a slice, a mask"):
        DETECTIONS[index]
    with pytest.raises(IndexError):
        DETECTIONS[[True, False]]  # a mask for two


def test_above_keeps_scores_equal_to_or_higher_than_the_limit() -> None:
    assert scores(DETECTIONS.above(0.5)) == [0.75, 0.5]
    assert scores(DETECTIONS.above(0)) == [0.75, 0.5, 0.25]
    assert len(DETECTIONS.above(0.76)) == 0
    tenth = Detections(labels=["cat"], label_ids=[1], scores=[0.1], boxes=[[0, 0, 1, 1]])
    assert len(tenth.above(0.1)) == 1  # float32's .1 is not float64's


def test_detections_are_equal_by_value() -> None:
    again = pickle.loads(pickle.dumps(DETECTIONS))
    assert again == DETECTIONS
    assert again is not DETECTIONS
    assert DETECTIONS[:2] != DETECTIONS
    assert DETECTIONS[[1, 0, 2]] != DETECTIONS
    assert DETECTIONS != "dog"
    with pytest.raises(TypeError, match="unhashable"):
        hash(DETECTIONS)


def test_repr_counts_the_detections_of_each_class() -> None:
    assert repr(DETECTIONS) == "Detections(3: 2 dog, 1 cat; scores 0.25 to 0.75)"
    assert repr(NONE) == "Detections(none)"
    letters = list("aabcdefg")
    many = Detections(labels=letters, label_ids=[1] * 8, scores=[0.5] * 8, boxes=np.zeros((8, 4)))
    assert repr(many) == (
        "Detections(8: 2 a, 1 b, 1 c, 1 d, 1 e, 2 of other classes; scores 0.50 to 0.50)"
    )


def test_pandas_has_the_columns_of_the_table_detections() -> None:
    frame = DETECTIONS.to_pandas()
    assert frame.columns.tolist() == [
        "label", "label_id", "score", "x_min", "y_min", "x_max", "y_max",
    ]  # fmt: skip
    assert frame.iloc[1].tolist() == ["cat", 1, 0.5, 1, 2, 3, 4]
    assert [type(label) for label in frame["label"]] == [str] * 3
    assert frame["x_max"].dtype == np.float32
    assert (len(NONE.to_pandas()), len(NONE.to_pandas().columns)) == (0, 7)


def test_to_supervision_copies_the_arrays_and_counts_classes_from_0(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stand_in = ModuleType("supervision")
    stand_in.Detections = SimpleNamespace  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "supervision", stand_in)
    made = DETECTIONS.to_supervision()
    assert made.xyxy.tolist() == DETECTIONS.boxes.tolist()
    assert made.confidence.tolist() == [0.75, 0.5, 0.25]
    assert made.class_id.tolist() == [1, 0, 1]
    assert made.data["class_name"].tolist() == ["dog", "cat", "dog"]
    made.xyxy[0] = 0
    assert DETECTIONS.boxes[0].tolist() == [20, 30, 60, 50]


def test_the_error_without_supervision_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(
        ModuleNotFoundError, match=r"not installed\. Run: pip install supervision"
    ) as e:
        DETECTIONS.to_supervision()
    assert e.value.name == "supervision"


def test_boxes_are_drawn_on_a_copy_in_the_colours_of_their_classes(tmp_path: Path) -> None:
    grey = np.full((60, 80, 3), 128, np.uint8)
    picture = DETECTIONS[:1].draw(grey)
    assert isinstance(picture, Image.Image)
    assert picture.size == (80, 60)
    assert picture.getpixel((20, 45)) == PALETTE[1]  # the second class, on the box's left edge
    assert picture.getpixel((19, 45)) == (0, 0, 0)
    assert picture.getpixel((40, 40)) == (128, 128, 128)
    assert (grey == 128).all()
    Image.fromarray(grey).save(tmp_path / "grey.png")
    assert DETECTIONS[:1].draw(tmp_path / "grey.png").tobytes() == picture.tobytes()
    assert (np.asarray(NONE.draw(grey)) == 128).all()
    with pytest.raises(TypeError, match="the image is a float64 array"):
        DETECTIONS.draw(grey / 255)


def test_boxes_are_drawn_in_the_frame_of_the_turned_image(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees: stored 60 x 80, shown 80 high and 60 wide
    Image.new("RGB", (80, 60), "white").save(tmp_path / "turned.jpg", exif=exif)
    box = Detections(labels=["cat"], label_ids=[1], scores=[0.5], boxes=[[10, 60, 50, 78]])
    picture = box.draw(tmp_path / "turned.jpg")
    assert picture.size == (60, 80)
    assert picture.getpixel((10, 70)) == PALETTE[0]
