"""The actor of the second stage, called without Ray."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from fastrcnn.checkpoint import load_checkpoint
from fastrcnn.config import ProposalConfig
from fastrcnn.detection import detect, propose_learned
from fastrcnn.scoring_form import scoring_form
from pipeline import Detector
from pipeline.runtime.attempts import AttemptLog
from pipeline.schema import RESULT
from pipeline.scoring.detector import DetectorActor
from tests.pipeline.record_cases import candidates_of


@pytest.fixture
def candidates(tmp_path: Path) -> pa.Table:
    """Two images and a broken file between them."""
    return candidates_of(tmp_path, ProposalConfig(name="grid", max_boxes=12))


def test_rows_keep_their_order_and_hold_the_boxes_of_the_model(
    candidates: pa.Table, tiny_checkpoint: Path
) -> None:
    results = DetectorActor(tiny_checkpoint, run_id="r1", precision="float32")(candidates)
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


def test_an_actor_with_an_rpn_needs_no_proposals_and_counts_its_proposals(
    candidates: pa.Table, rpn_checkpoint: Path, tmp_path: Path
) -> None:
    bare = candidates_of(tmp_path, ProposalConfig(name="rpn", max_boxes=30))
    assert bare["status"].to_pylist() == ["ok", "undecodable", "ok"]
    assert bare["proposals"].to_pylist() == [None] * 3
    changed = ["proposals", "etag"]  # the files were written again
    assert bare.drop_columns(changed).equals(candidates.drop_columns(changed))
    results = DetectorActor(rpn_checkpoint, run_id="r1")(bare)
    assert results.schema == RESULT
    rows = results.to_pylist()
    model = scoring_form(load_checkpoint(rpn_checkpoint).model)
    for row in (rows[0], rows[2]):
        pixels = np.asarray(Image.open(row["image_uri"])).copy()
        (own,) = propose_learned(model, [pixels])
        assert row["num_proposals"] == len(own.boxes) > 0
        (expected,) = detect(model, [pixels], [own.boxes])
        assert row["num_detections"] == len(row["detections"]) == len(expected.scores) > 0
        assert [row["detections"]] == Detector(rpn_checkpoint).detect([pixels])
        assert [box["score"] for box in row["detections"]] == expected.scores.tolist()
    assert (rows[1]["num_proposals"], rows[1]["detections"]) == (None, None)


def test_an_actor_with_an_rpn_uses_given_proposals(
    candidates: pa.Table, rpn_checkpoint: Path
) -> None:
    detector = DetectorActor(rpn_checkpoint)
    given = len(candidates["proposals"][0].as_py()) // 16
    assert detector(candidates)["num_proposals"].to_pylist()[0] == given


def test_the_given_threshold_replaces_the_one_in_the_checkpoint(
    candidates: pa.Table, tiny_checkpoint: Path
) -> None:
    rows = DetectorActor(tiny_checkpoint, score_threshold=1.0)(candidates).to_pylist()
    assert [row["num_detections"] for row in rows] == [0, None, 0]
    assert rows[0]["detections"] == []


def test_a_batch_of_broken_images_skips_the_model(
    candidates: pa.Table, tiny_checkpoint: Path
) -> None:
    (row,) = DetectorActor(tiny_checkpoint)(candidates.slice(1, 1)).to_pylist()
    assert row["status"] == "undecodable"


def test_a_checkpoint_written_anew_since_the_start_is_refused(tiny_checkpoint: Path) -> None:
    with pytest.raises(RuntimeError, match="expected 0123, as when the job started"):
        DetectorActor(tiny_checkpoint, model_id="0123")


def test_an_image_that_killed_three_actors_gets_a_row(
    candidates: pa.Table, tiny_checkpoint: Path
) -> None:
    poison = candidates["image_uri"][2].as_py()
    log = AttemptLog()
    for key in (f"detect 3 {candidates['image_uri'][0]}", *[f"detect alone {poison}"] * 2):
        log.begin(key)
    rows = DetectorActor(tiny_checkpoint, attempts=log)(candidates).to_pylist()
    assert [row["status"] for row in rows] == ["ok", "undecodable", "failed"]
    assert "died each of 3 times" in rows[2]["error"]


def test_the_library_detector_turns_candidates_into_the_same_rows_as_the_actor(
    candidates: pa.Table, tiny_checkpoint: Path
) -> None:
    actor, library = (kind(tiny_checkpoint)(candidates) for kind in (DetectorActor, Detector))
    timed = ["scored_at", "detect_s"]
    assert library.drop_columns(timed).equals(actor.drop_columns(timed))
    assert library["status"].to_pylist() == ["ok", "undecodable", "ok"]


def test_the_failure_of_one_image_is_written_in_its_row(
    candidates: pa.Table, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object, **__: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("pipeline.detector.network.detect_counting", no_room)
    rows = DetectorActor(tiny_checkpoint)(candidates).to_pylist()
    assert [row["status"] for row in rows] == ["failed", "undecodable", "failed"]
    assert rows[0]["error"] == "CUDA out of memory."
    assert rows[0]["detections"] is None


@pytest.mark.parametrize("place", ["network.detect_counting", "batches.Uploads.start"])
@pytest.mark.parametrize("error", [ValueError("on purpose"), MemoryError(), IndexError()])
def test_a_bug_that_one_image_meets_is_its_row_alone(
    candidates: pa.Table,
    tiny_checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    error: Exception,
) -> None:
    """The images have 30 and 50 rows of pixels."""
    owner: Any = importlib.import_module("pipeline.detector")
    *outer, name = place.split(".")
    for part in outer:
        owner = getattr(owner, part)
    real = getattr(owner, name)

    def broken(*args: Any, **kwargs: Any) -> Any:
        if any(isinstance(v, list) and any(len(one) == 50 for one in v) for v in args):
            raise error
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, broken)
    rows = DetectorActor(tiny_checkpoint)(candidates).to_pylist()
    assert [row["status"] for row in rows] == ["ok", "undecodable", "failed"]
    assert rows[2]["error"].startswith(type(error).__name__)
    assert "in broken" in rows[2]["traceback"]
    assert rows[0]["traceback"] is None
