"""Tests of TensorBoard files and validation pictures: written to a bucket and read back."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from fastrcnn.detection import Detections
from pipeline import storage
from pipeline.annotations import read_labelled_images
from pipeline.draw_scenes import draw_split
from pipeline.training.board import NAMES, TrainingBoard
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


def test_events_hold_every_step_and_validation(bucket: str) -> None:
    with TrainingBoard(bucket, 0) as board:
        for iteration in (1, 2):
            board.step(row(iteration, 0.5 * iteration))
        metrics = {"val_map": 0.25, "val_ap": {"cat": 0.5, "dog": None}}
        board.validated(2, metrics, {"pictures.jpg": b"picture"})
        board.save(2)
        (events,) = storage.list_objects(f"{bucket}/tensorboard")
        by_name = scalars(storage.read_bytes(events.uri))
        assert by_name["train/loss"] == [(1, 0.5), (2, 1.0)]
        assert by_name["speed/waiting_for_data"] == [(1, 0.25), (2, 0.25)]
        assert by_name["validation/map"] == [(2, 0.25)]
        assert by_name["validation/ap/cat"] == [(2, 0.5)]
        assert "validation/ap/dog" not in by_name, "no image holds a dog"
        assert storage.read_bytes(f"{bucket}/validation/000002/pictures.jpg") == b"picture"
        board.step(row(3, 2.0))
        board.save(3)
        files = [item.uri for item in storage.list_objects(f"{bucket}/tensorboard")]
        assert len(files) == 2
        (more,) = (uri for uri in files if uri != events.uri)
        assert scalars(storage.read_bytes(more))["train/loss"] == [(3, 2.0)]


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


def _nothing() -> Detections:
    return Detections(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0))
