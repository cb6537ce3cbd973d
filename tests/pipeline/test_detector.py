"""The Detector as a plain call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from fastrcnn.checkpoint import load_checkpoint
from fastrcnn.config import ProposalConfig
from fastrcnn.detection import Detections, detect, propose_learned
from fastrcnn.scoring_form import scoring_form
from pipeline.attempts import AttemptLog
from pipeline.config import Precision
from pipeline.detector import Detector
from pipeline.images import ImageError
from pipeline.schema import RESULT
from pipeline.scoring.candidates import ReadSettings, read_images
from pipeline.scoring.halving import detect_halving
from pipeline.storage import ObjectMissing
from tests.pipeline.record_cases import planned_rows

SETTINGS = ReadSettings(proposals=ProposalConfig(name="grid", max_boxes=12))


def test_a_checkpoint_and_an_image_may_lie_in_the_home_folder(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").symlink_to(tiny_checkpoint)
    Image.effect_noise((60, 40), 40).convert("RGB").save(tmp_path / "a.png")
    detector = Detector("~/model")
    assert detector.detect(["~/a.png"]) == detector.detect([tmp_path / "a.png"])


@pytest.fixture
def candidates(tmp_path: Path) -> pa.Table:
    """Two images and a broken file between them."""
    rng = np.random.default_rng(0)
    for name, size in (("a.png", (30, 40, 3)), ("c.png", (50, 20, 3))):
        Image.fromarray(rng.integers(0, 255, size, dtype=np.uint8)).save(tmp_path / name)
    (tmp_path / "b.png").write_bytes(b"no image")
    return read_images(planned_rows(str(tmp_path), [0, 0, 7]), SETTINGS)


def test_rows_keep_their_place_and_carry_the_models_boxes(
    candidates: pa.Table, tiny_checkpoint: Path
) -> None:
    results = Detector(tiny_checkpoint, run_id="r1", precision="float32")(candidates)
    assert results.schema == RESULT
    rows = results.to_pylist()
    assert [row["status"] for row in rows] == ["ok", "undecodable", "ok"]
    assert [row["shard"] for row in rows] == [0, 0, 7]
    assert (rows[1]["detections"], rows[1]["num_detections"], rows[1]["num_proposals"]) == (
        None, None, None,
    )  # fmt: skip
    checkpoint = load_checkpoint(tiny_checkpoint)
    assert {(row["run_id"], row["model_id"]) for row in rows} == {("r1", checkpoint.model_id)}
    for row, candidate in zip(rows, candidates.to_pylist(), strict=True):
        if row["status"] != "ok":
            continue
        boxes = np.frombuffer(candidate["proposals"], np.float32).reshape(-1, 4).copy()
        pixels = np.asarray(Image.open(row["image_uri"])).copy()
        (expected,) = detect(checkpoint.model, [pixels], [boxes])
        assert row["num_proposals"] == len(boxes)
        assert row["num_detections"] == len(row["detections"]) == len(expected.scores) > 0
        found = row["detections"]
        torch.testing.assert_close(
            torch.tensor([[d["x_min"], d["y_min"], d["x_max"], d["y_max"]] for d in found]),
            expected.boxes,
        )
        assert [d["label"] for d in found] == [("cat", "dog")[k - 1] for k in expected.labels]
        scores = [d["score"] for d in found]
        assert scores == sorted(scores, reverse=True)


def test_a_list_of_images_gives_the_boxes_that_a_scoring_run_writes(
    candidates: pa.Table, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    detector = Detector(tiny_checkpoint)
    first = tmp_path / "a.png"
    pixels = np.asarray(Image.open(tmp_path / "c.png")).copy()
    own = [np.frombuffer(candidates["proposals"][i].as_py(), np.float32) for i in (0, 2)]
    proposals = [boxes.reshape(-1, 4).copy() for boxes in own]
    found = detector.detect([str(first), pixels], proposals)
    rows = detector(candidates).to_pylist()
    assert [row["detections"] for row in rows] == [found[0], None, found[1]]
    assert found[0]
    assert detector([]) == []
    by_itself = detector([first, first.read_bytes(), pixels] * 4)
    assert len(by_itself) == 12
    assert by_itself[0] == by_itself[1] == by_itself[3] == by_itself[10]
    assert {box["label"] for boxes in by_itself for box in boxes} <= set(detector.classes)


def test_an_rpns_detector_needs_no_proposals_and_says_how_many_it_made(
    candidates: pa.Table, rpn_checkpoint: Path, tmp_path: Path
) -> None:
    settings = ReadSettings(proposals=ProposalConfig(name="rpn", max_boxes=30))
    bare = read_images(planned_rows(str(tmp_path), [0, 0, 7]), settings)
    assert bare["status"].to_pylist() == ["ok", "undecodable", "ok"]
    assert bare["proposals"].to_pylist() == [None] * 3
    assert bare.drop_columns("proposals").equals(candidates.drop_columns("proposals"))
    detector = Detector(rpn_checkpoint, run_id="r1")
    results = detector(bare)
    assert results.schema == RESULT
    rows = results.to_pylist()
    model = scoring_form(load_checkpoint(rpn_checkpoint).model)
    for row in (rows[0], rows[2]):
        pixels = np.asarray(Image.open(row["image_uri"])).copy()
        (own,) = propose_learned(model, [pixels])
        assert row["num_proposals"] == len(own.boxes) > 0
        (expected,) = detect(model, [pixels], [own.boxes])
        assert row["num_detections"] == len(row["detections"]) == len(expected.scores) > 0
        assert [row["detections"]] == detector.detect([pixels])
        assert [box["score"] for box in row["detections"]] == expected.scores.tolist()
    assert (rows[1]["num_proposals"], rows[1]["detections"]) == (None, None)


def test_an_rpns_detector_takes_proposals_where_they_are_given(
    candidates: pa.Table, rpn_checkpoint: Path
) -> None:
    detector = Detector(rpn_checkpoint)
    given = len(candidates["proposals"][0].as_py()) // 16
    assert detector(candidates)["num_proposals"].to_pylist()[0] == given


def test_a_list_of_images_that_cannot_be_had_raises(
    candidates: pa.Table, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    detector = Detector(tiny_checkpoint)
    with pytest.raises(ImageError):
        detector([tmp_path / "b.png"])
    with pytest.raises(ObjectMissing):
        detector([tmp_path / "no.png"])
    with pytest.raises(ValueError, match="1 images, but proposals for 2"):
        detector.detect([tmp_path / "a.png"], [np.zeros((0, 4), np.float32)] * 2)


def test_the_threshold_replaces_the_checkpoints(
    candidates: pa.Table, tiny_checkpoint: Path
) -> None:
    rows = Detector(tiny_checkpoint, score_threshold=1.0)(candidates).to_pylist()
    assert [row["num_detections"] for row in rows] == [0, None, 0]
    assert rows[0]["detections"] == []


@pytest.mark.parametrize("precision", ["auto", "float32"])
def test_float32_stays_float32_on_any_machine(
    tiny_checkpoint: Path, precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastrcnn.scoring_form.multiplies_bfloat16", lambda _: True)
    detector = Detector(tiny_checkpoint, precision=precision, gpu=False)
    expected = torch.bfloat16 if precision == "auto" else torch.float32
    assert {p.dtype for p in detector._model.backbone.parameters()} == {expected}


def test_a_batch_of_broken_images_needs_no_model_pass(
    candidates: pa.Table, tiny_checkpoint: Path
) -> None:
    (row,) = Detector(tiny_checkpoint)(candidates.slice(1, 1)).to_pylist()
    assert row["status"] == "undecodable"


def test_a_checkpoint_written_anew_since_the_start_is_refused(tiny_checkpoint: Path) -> None:
    with pytest.raises(RuntimeError, match="was 0123 when the job started"):
        Detector(tiny_checkpoint, model_id="0123")


def test_an_image_that_killed_three_detectors_is_a_row(
    candidates: pa.Table, tiny_checkpoint: Path
) -> None:
    poison = candidates["image_uri"][2].as_py()
    log = AttemptLog()
    for key in (f"detect 3 {candidates['image_uri'][0]}", *[f"detect alone {poison}"] * 2):
        log.begin(key)
    rows = Detector(tiny_checkpoint, attempts=log)(candidates).to_pylist()
    assert [row["status"] for row in rows] == ["ok", "undecodable", "failed"]
    assert "died each of 3 times" in rows[2]["error"]


class SmallGpu:
    """Fits `room` images; one of 99 rows never."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.calls: list[int] = []

    def __call__(self, pixels: Sequence[Any], proposals: Sequence[Any]) -> list[Detections]:
        self.calls.append(len(pixels))
        if len(pixels) > self.room or any(len(p) == 99 for p in pixels):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.\nTried to allocate 9 GiB")
        empty = torch.zeros(0)
        return [Detections(empty, empty, torch.tensor([float(len(p))])) for p in pixels]


def test_a_batch_too_large_for_the_gpu_is_halved() -> None:
    gpu = SmallGpu(room=2)
    pixels = [np.zeros((n, 1, 3), np.uint8) for n in range(1, 6)]
    found = detect_halving(gpu, pixels, [np.zeros((0, 4), np.float32)] * 5)
    assert [o.scores.item() for o in found if not isinstance(o, str)] == [1, 2, 3, 4, 5]
    assert gpu.calls == [5, 2, 3, 1, 2]


def test_halves_of_a_batch_without_proposals_have_none_either() -> None:
    calls: list[Sequence[Any] | None] = []

    def run(pixels: Sequence[Any], proposals: Sequence[Any] | None) -> list[int]:
        calls.append(proposals)
        if len(pixels) > 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return [len(pixels[0])]

    pixels = [np.zeros((n, 1, 3), np.uint8) for n in (1, 2, 3)]
    assert detect_halving(run, pixels, None) == [1, 2, 3]
    assert calls == [None] * 5


def test_an_image_too_large_for_the_gpu_fails_alone() -> None:
    pixels = [np.zeros((n, 1, 3), np.uint8) for n in (1, 99, 3)]
    found = detect_halving(SmallGpu(room=8), pixels, [np.zeros((0, 4), np.float32)] * 3)
    assert [isinstance(o, str) for o in found] == [False, True, False]
    assert found[1] == "CUDA out of memory. Tried to allocate 9 GiB"
