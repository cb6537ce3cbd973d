"""Tests of TensorBoard files and validation pictures: written to a bucket and read back."""

from __future__ import annotations

import io
import struct
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from fastrcnn.detection import Detections
from pipeline import storage
from pipeline.annotations import read_labelled_images
from pipeline.draw_scenes import draw_split
from pipeline.errors import ObjectDenied
from pipeline.training.board import NAMES, Boards, ProgressLines, TrainingBoard, tag_of
from pipeline.training.examples import Example
from pipeline.training.validation import draw_validation, validate


def scalars(data: bytes) -> dict[str, list[tuple[int, float]]]:
    """Read an events file: name -> (step, value) pairs.

    Each record is: length (8 bytes), checksum of the length (4), event, checksum of the event (4).
    """
    by_name: dict[str, list[tuple[int, float]]] = {}
    at = 0
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        event = Event.FromString(data[at + 12 : at + 12 + length])
        for value in event.summary.value:
            by_name.setdefault(value.tag, []).append((event.step, round(value.simple_value, 4)))
        at += 16 + length
    return by_name


def row(iteration: int, value: float) -> dict[str, float]:
    speed = {"seconds": 2.0, "waited": 0.5}
    return dict.fromkeys(NAMES, value) | {"iteration": iteration, "rois": 8} | speed


def test_the_time_left_counts_the_validations_to_come() -> None:
    """After step 60 of 100, those at 60, 90 and 100 are to come; 40 steps take 20 s."""
    lines = ProgressLines(100, 2, 30)
    assert lines.seconds_left(60, 2.0) == 20
    lines.validated(10)
    assert lines.seconds_left(60, 2.0) == 20 + 3 * 10
    assert lines.seconds_left(61, 1.0) == 39 + 2 * 10
    assert lines.seconds_left(100, 1.0) == 10


def test_a_validation_is_not_in_the_speed_of_the_steps(caplog: pytest.LogCaptureFixture) -> None:
    lines = ProgressLines(2, 4, 1)
    lines.since -= 1000.0
    lines.validated(999.0)
    with caplog.at_level("INFO"):
        lines.step(row(2, 0.5) | {"iteration": 2})
    assert " 4.0 images/s " in caplog.text or " 3.9 images/s " in caplog.text


def test_a_class_name_becomes_a_tag_that_tensorboard_takes() -> None:
    assert tag_of("wind turbine (2)") == "wind_turbine__2_"
    assert tag_of("ä-b/c.d_e") == "ä-b/c.d_e"


METRICS = {"val_map": 0.25, "val_map50_95": 0.125, "val_ap": {"cat": 0.5, "dog": None}}


def test_events_hold_every_step_and_validation(bucket: str) -> None:
    board = TrainingBoard(bucket, 0)
    for iteration in (1, 2):
        board.step(row(iteration, 0.5 * iteration))
    board.add_validation(2, METRICS, {"pictures.jpg": b"picture"})
    board.save(2)
    (events,) = storage.list_objects(f"{bucket}/tensorboard")
    by_name = scalars(storage.read_bytes(events.uri))
    assert by_name["train/loss"] == [(1, 0.5), (2, 1.0)]
    assert by_name["speed/waiting_for_data"] == [(1, 0.25), (2, 0.25)]
    assert by_name["validation/map"] == [(2, 0.25)]
    assert by_name["validation/map50_95"] == [(2, 0.125)]
    assert by_name["validation/ap/cat"] == [(2, 0.5)]
    assert "validation/ap/dog" not in by_name, "no image holds a dog"
    assert storage.read_bytes(f"{bucket}/validation/000002/pictures.jpg") == b"picture"
    board.step(row(3, 2.0))
    board.save(3)
    files = [item.uri for item in storage.list_objects(f"{bucket}/tensorboard")]
    assert len(files) == 2
    (more,) = (uri for uri in files if uri != events.uri)
    assert scalars(storage.read_bytes(more))["train/loss"] == [(3, 2.0)]
    board.close(failed=False)


def test_events_that_could_not_be_uploaded_come_with_the_next_checkpoint(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(uri: str, data: bytes) -> None:
        raise ObjectDenied(uri)

    board = TrainingBoard(bucket, 0)
    board.step(row(1, 0.5))
    with monkeypatch.context() as patch:
        patch.setattr(storage, "write_bytes", denied)
        with pytest.raises(ObjectDenied):
            board.save(1)
    board.step(row(2, 0.25))
    board.save(2)
    board.close(failed=False)
    files = storage.list_objects(f"{bucket}/tensorboard")
    losses = [scalars(storage.read_bytes(file.uri)).get("train/loss", []) for file in files]
    assert sorted(sum(losses, [])) == [(1, 0.5), (2, 0.25)]


class Recorder:
    """A board that keeps its calls, and fails or waits where a test asks for it."""

    def __init__(self, fails: str = "", waits: threading.Event | None = None) -> None:
        self.calls: list[object] = []
        self.fails, self.waits = fails, waits

    def _note(self, name: str, value: object) -> None:
        if self.waits is not None:
            self.waits.wait()
        if name == self.fails:
            raise KeyError(f"no {name}")
        self.calls.append((name, value))

    def step(self, row: Mapping[str, float]) -> None:
        self._note("step", row["iteration"])

    def add_validation(
        self, iteration: int, metrics: object, pictures: Mapping[str, bytes]
    ) -> None:
        self._note("add_validation", dict(pictures))

    def save(self, iteration: int) -> None:
        self._note("save", iteration)

    def close(self, failed: bool) -> None:
        self._note("close", failed)


def train_a_step(boards: Boards) -> None:
    boards.step(row(1, 0.5))
    boards.add_validation(1, METRICS, lambda: {"a.png": b"a"})
    boards.save(1)


SHOWN = [("step", 1), ("add_validation", {"a.png": b"a"}), ("save", 1), ("close", False)]


@pytest.mark.parametrize("fails", ["step", "add_validation", "save", "close"])
def test_a_board_that_fails_is_a_warning_and_the_others_go_on(
    caplog: pytest.LogCaptureFixture, fails: str
) -> None:
    bad, good = Recorder(fails), Recorder()
    with Boards({"bad": lambda: bad, "good": lambda: good}) as boards:
        train_a_step(boards)
        train_a_step(boards)
    assert good.calls == [*SHOWN[:3], *SHOWN]
    assert len(bad.calls) == len(good.calls) - (1 if fails == "close" else 2)
    assert caplog.messages == [
        f"bad failed (KeyError: 'no {fails}'); the training goes on without it"
    ]


def test_a_board_that_cannot_be_made_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    def no_space() -> Recorder:
        raise OSError(28, "No space left on device")

    good = Recorder()
    with Boards({"bad": no_space, "good": lambda: good}) as boards:
        train_a_step(boards)
    assert good.calls == SHOWN
    assert "No space left on device" in caplog.text


def test_pictures_that_cannot_be_drawn_are_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    def draw() -> dict[str, bytes]:
        raise ZeroDivisionError

    board = Recorder()
    with Boards({"board": lambda: board}) as boards:
        boards.add_validation(1, METRICS, draw)
    assert board.calls[0] == ("add_validation", {})
    assert "validation pictures failed (ZeroDivisionError" in caplog.text


def test_a_board_that_hangs_delays_neither_a_step_nor_the_end_for_long(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.training.board.CLOSE_S", 0.3)
    go_on = threading.Event()
    start = time.monotonic()
    with Boards({"MLflow": lambda: Recorder(waits=go_on)}) as boards:
        train_a_step(boards)
        assert time.monotonic() - start < 0.3
    assert time.monotonic() - start < 5
    go_on.set()
    assert "did not take the last numbers within 0.3 s" in caplog.text


def test_after_a_failure_the_boards_are_told() -> None:
    board = Recorder()
    boards = Boards({"board": lambda: board})
    boards.__exit__(ValueError, None, None)
    assert board.calls == [("close", True)]


def test_ranks_other_than_0_show_nothing() -> None:
    with Boards({}) as boards:
        train_a_step(boards)


def test_detected_boxes_are_drawn_beside_labelled_boxes(tmp_path: Path) -> None:
    draw_split(tmp_path, "val", range(3), seed=0, size=(180, 220))
    labelled = read_labelled_images(str(tmp_path), "val")
    examples = [Example(image, np.zeros((0, 4), np.float32)) for image in labelled.images]
    by_name = validate(lambda images, proposals: [_nothing() for _ in images], 5, examples)
    files = draw_validation(by_name, examples, labelled.classes)
    sheet = np.asarray(Image.open(io.BytesIO(files["pictures.jpg"])).convert("RGB")).astype(int)
    pairs = sheet[6 : 6 + 240, 6 : 6 + 300], sheet[6 : 6 + 240, 312 : 312 + 300]
    difference = np.abs(pairs[0] - pairs[1]).max(axis=2)
    assert 0.005 < (difference > 60).mean() < 0.5, "the pictures differ in the boxes only"
    assert files["pr_curves.png"].startswith(b"\x89PNG")


def test_drawn_are_the_boxes_from_the_best_f1_on(tmp_path: Path) -> None:
    """All true boxes have scores of .3, and one false box covers the left edge with .1."""
    draw_split(tmp_path, "val", range(3), seed=0, size=(180, 220))
    labelled = read_labelled_images(str(tmp_path), "val")
    examples = [Example(image, np.zeros((0, 4), np.float32)) for image in labelled.images]
    turn = iter(labelled.images)

    def detected(score: float) -> Detections:
        image = next(turn)
        boxes = torch.cat([torch.from_numpy(image.gt_boxes), torch.tensor([[0.0, 0, 2, 180]])])
        labels = torch.cat([torch.from_numpy(image.gt_labels), torch.tensor([1])])
        scores = torch.full((len(labels),), score)
        scores[-1] = 0.1
        return Detections(boxes, labels, scores)

    result = validate(lambda images, proposals: [detected(0.3) for _ in images], 5, examples)
    files = draw_validation(result, examples, labelled.classes)
    sheet = np.asarray(Image.open(io.BytesIO(files["pictures.jpg"])).convert("RGB")).astype(int)
    left, right = sheet[6:251, 6:306], sheet[6:251, 312:612]
    drawn = np.abs(left - right).max(axis=2) > 60
    assert 0 < drawn.mean() < 0.1, "the same boxes, with scores only on the left"
    assert drawn[:, :3].mean() < 0.1, "the false box is not drawn"


def _nothing() -> Detections:
    return Detections(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0))
