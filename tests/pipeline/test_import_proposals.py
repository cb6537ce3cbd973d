"""Proposals of other programs are matched by name; pickles are read without running their code."""

from __future__ import annotations

import enum
import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from pipeline.config.tools import ImportConfig
from pipeline.errors import UserError
from pipeline.import_proposals import read_mat, read_pickle, run
from pipeline.proposals.inert_pickle import as_array, load_inert
from pipeline.proposals.table import ProposalsTable

BOX = np.array([[10, 20, 30, 50]], np.float32)
VOC = """<annotation><size><width>90</width><height>60</height><depth>3</depth></size>
<object><name>cat</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>
</annotation>"""


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Three images, a, b, c, in a LabelImg folder."""
    folder = tmp_path / "data" / "train"
    folder.mkdir(parents=True)
    for name in "abc":
        Image.new("RGB", (90, 60)).save(folder / f"{name}.jpg")
        (folder / f"{name}.xml").write_text(VOC)
    return tmp_path / "data"


class BoxMode(enum.IntEnum):
    XYXY_ABS = 0
    XYWH_ABS = 1


class InstanceData:
    def __init__(self, bboxes: Any, scores: Any) -> None:
        self.bboxes, self.scores = bboxes, scores


def imported(labelled: Path, source: Path) -> dict[str, list[list[float]]]:
    """Import the file; return the boxes by the letter of the image, read as training reads them."""
    output = labelled.parent / "proposals.parquet"
    run(ImportConfig(source=str(source), data=str(labelled), output=str(output)))
    table = ProposalsTable.read(str(output), str(labelled))
    uris = {letter: f"{labelled}/train/{letter}.jpg" for letter in "abc"}
    return {letter: table.of(uri, 9).tolist() for letter, uri in uris.items()}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "array",
    [
        BOX,
        BOX.astype(">f8"),
        np.zeros((0, 4)),
        np.asfortranarray(np.arange(8.0).reshape(2, 4)),
        np.arange(3),
    ],
)
def test_arrays_are_rebuilt_from_every_protocol(array: np.ndarray[Any, Any], protocol: int) -> None:
    again = as_array(load_inert(pickle.dumps(array, protocol)))
    assert again.dtype == array.dtype
    assert np.array_equal(again, array)


def test_a_pickle_that_would_run_a_command_runs_nothing(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return os.system, (f"touch {tmp_path}/was-run",)

    data = pickle.dumps({"ids": ["a"], "boxes": [Attack()], "objectness_logits": [np.ones(1)]})
    with pytest.raises(ValueError, match="system: expected an array of numpy"):
        read_pickle(data)
    assert not (tmp_path / "was-run").exists()


def test_detectron2_files_are_matched_by_id_and_sorted_by_score(
    labelled: Path, tmp_path: Path
) -> None:
    content = {
        "ids": ["c", "elsewhere", "a", "b"],
        "boxes": [BOX + 2, BOX, np.concatenate([BOX, BOX + 1]), np.zeros((0, 4), np.float32)],
        "objectness_logits": [np.ones(1), np.ones(1), np.array([0.1, 0.9]), np.zeros(0)],
        "bbox_mode": BoxMode.XYXY_ABS,
    }
    (tmp_path / "d2.pkl").write_bytes(pickle.dumps(content))
    assert imported(labelled, tmp_path / "d2.pkl") == {
        "a": [[11, 21, 31, 51], [10, 20, 30, 50]],
        "b": [],
        "c": [[12, 22, 32, 52]],
    }


def test_equal_scores_keep_their_order_and_old_names_and_xywh_are_read() -> None:
    boxes = np.array([[1, 1, 4, 4], [2, 2, 4, 4]], np.float32)
    content = {"indexes": [7], "boxes": [boxes], "scores": [np.ones(2)], "bbox_mode": 1}
    (found,) = read_pickle(pickle.dumps(content))
    assert found.name == "7"
    assert found.boxes.tolist() == [[1, 1, 5, 5], [2, 2, 6, 6]]


def test_mmdetection_files_are_matched_by_path(labelled: Path, tmp_path: Path) -> None:
    content = {
        f"data/coco/train/{letter}.jpg": InstanceData(BOX + number, np.ones(1, np.float32))
        for number, letter in enumerate("cab")
    }
    (tmp_path / "mm.pkl").write_bytes(pickle.dumps(content))
    assert imported(labelled, tmp_path / "mm.pkl") == {
        "a": (BOX + 1).tolist(),
        "b": (BOX + 2).tolist(),
        "c": BOX.tolist(),
    }


def cells(*values: Any) -> np.ndarray[Any, Any]:
    column = np.empty((len(values), 1), object)
    for number, value in enumerate(values):
        column[number, 0] = value
    return column


def mat(**content: Any) -> bytes:
    stream = io.BytesIO()
    savemat(stream, content)
    return stream.getvalue()


def test_mat_files_are_matched_by_name_and_their_one_based_y_first_corners_are_converted(
    labelled: Path, tmp_path: Path
) -> None:
    # y1, x1, y2, x2 of pixels from 1 on: rows 21 to 50, columns 11 to 30.
    rows = np.array([[21, 11, 50, 30]], np.uint16)
    data = mat(boxes=cells(rows, rows + 1, rows + 2), images=cells("b", "c", "a"))
    (tmp_path / "voc.mat").write_bytes(data)
    assert imported(labelled, tmp_path / "voc.mat") == {
        "a": (BOX + 2).tolist(),
        "b": BOX.tolist(),
        "c": (BOX + 1).tolist(),
    }


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([BOX, BOX, BOX], "without names"),
        ({"boxes": [BOX]}, "not both ids"),
        ({"ids": ["a"], "boxes": [BOX], "scores": [np.ones(2)]}, "2 scores for 1 boxes"),
        ({"ids": ["a"], "boxes": [BOX[:, ::-1]], "scores": [np.ones(1)]}, "x1 <= x2"),
        ({"ids": ["a"], "boxes": [BOX], "scores": [np.ones(1)], "bbox_mode": 4}, "bbox_mode 4"),
        ({"a.jpg": {"scores": np.ones(1)}}, "no bboxes"),
        ({"a.jpg": {"bboxes": np.array([None])}}, "an array that does not hold numbers"),
        (7, "holds a int, expected a dict"),
    ],
)
def test_other_pickles_are_refused_with_the_reason(content: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_pickle(pickle.dumps(content))


@pytest.mark.parametrize("data", [b"", b"no pickle", pickle.dumps(BOX)[:-20], b"\x80\x04\x95"])
def test_a_truncated_pickle_or_another_file_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="is not a readable pickle"):
        read_pickle(data)


@pytest.mark.parametrize("data", [b"", b"no matlab file at all" * 20, mat(boxes=cells(BOX))])
def test_a_mat_file_without_names_or_another_file_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a MATLAB file|no names to match"):
        read_mat(data)


@pytest.mark.parametrize(
    ("ids", "reason"), [(["a", "b"], "no proposals for c"), (["a", "b", "c", "a"], "has a twice")]
)
def test_a_missing_or_double_image_is_named(
    labelled: Path, tmp_path: Path, ids: list[str], reason: str
) -> None:
    many = len(ids)
    content = {"ids": ids, "boxes": [BOX] * many, "objectness_logits": [np.ones(1)] * many}
    (tmp_path / "d2.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match=reason):
        imported(labelled, tmp_path / "d2.pkl")
