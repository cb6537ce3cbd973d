"""Scoring in tiles: what names a run, what is refused, and the rows of the actor, called without Ray."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from fastrcnn.checkpoint import load_checkpoint
from fastrcnn.detection import ScoredImage
from fastrcnn.model import with_config
from fastrcnn.proposals.tiled import propose_on_tiles
from fastrcnn.scoring_form import scoring_form
from fastrcnn.tiled_detection import detect_tiled, propose_tiled
from fastrcnn.tiles import Tiling
from pipeline import Detector
from pipeline.config import ScoreConfig
from pipeline.errors import UserError
from pipeline.proposals.reading import read_images, unplanned
from pipeline.schema import PROPOSALS
from pipeline.scoring import dry_run
from pipeline.scoring.detector import DetectorActor
from pipeline.scoring.preflight import detector_settings, prepare, read_settings

SIZE = (50, 90)
"""Height and width of the large image. Tiles of 40 px and an overlap of 8 make a grid of 2 x 3."""


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A large image, a broken file and a small image."""
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("a.png", (*SIZE, 3)), ("c.png", (30, 40, 3))):
        Image.fromarray(rng.integers(0, 255, size, np.uint8)).save(folder / name)
    (folder / "b.png").write_bytes(b"no image")
    return folder


@pytest.fixture
def config(tmp_path: Path, images: Path, tiny_checkpoint: Path) -> ScoreConfig:
    return ScoreConfig(
        images=str(images), checkpoint=str(tiny_checkpoint), output=str(tmp_path / "out")
    )


@pytest.fixture
def with_model(tmp_path: Path, tiny_checkpoint: Path) -> Callable[..., str]:
    """A function that copies the checkpoint and changes fields of its model."""

    def copy(**changes: Any) -> str:
        folder = tmp_path / "changed"
        shutil.copytree(tiny_checkpoint, folder, dirs_exist_ok=True)
        content = json.loads((folder / "config.json").read_text())
        content["model"] |= changes
        (folder / "config.json").write_text(json.dumps(content))
        return str(folder)

    return copy


def run_id(config: ScoreConfig, **changes: Any) -> str:
    return prepare(replace(config, **changes)).run_id


def test_tiles_change_the_run_id_only_where_they_change_the_tiles(
    config: ScoreConfig, with_model: Callable[..., str]
) -> None:
    plain = run_id(config)
    assert run_id(config, tile=0) == plain
    others = [
        run_id(config, tile=40),
        run_id(config, tile=48),
        run_id(config, tile=40, tile_overlap=0.3),
        run_id(config, max_detections=7),
    ]
    assert len({plain, *others}) == 5
    assert run_id(config, tile=40, tile_overlap=0.2) == run_id(config, tile=40)
    tiled = replace(config, checkpoint=with_model(tile=40, tile_overlap=0.3))
    trained = run_id(tiled)
    assert run_id(tiled, tile=40) == run_id(tiled, tile_overlap=0.3) == trained
    assert run_id(tiled, tile=0) != trained


def test_a_checkpoint_from_before_tiles_keeps_its_run_id(
    config: ScoreConfig, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    old = tmp_path / "old"
    shutil.copytree(tiny_checkpoint, old)
    content = json.loads((old / "config.json").read_text())
    for name in ("tile", "tile_overlap", "whole_share"):
        del content["model"][name]
    (old / "config.json").write_text(json.dumps(content))
    assert run_id(config, checkpoint=str(old)) == run_id(config)


def test_tiles_for_a_detector_with_a_pyramid_are_refused(
    config: ScoreConfig, with_model: Callable[..., str]
) -> None:
    pyramid = replace(config, checkpoint=with_model(pyramid=[48, 64]))
    with pytest.raises(UserError, match="--tile 640: the detector has an image pyramid, 48 64"):
        prepare(replace(pyramid, tile=640))
    assert prepare(replace(pyramid, tile=0)).tiling is None


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"tile": 31}, "--tile 31 expected 0, or a side from 32 to 100000 pixels"),
        ({"tile": -1}, "--tile -1"),
        ({"tile": 40, "tile_overlap": 0.9}, "--tile-overlap 0.9 expected a share"),
        ({"tile": 0, "tile_overlap": 0.1}, "without tiles there is no overlap"),
        ({"max_detections": 0}, "--max-detections 0"),
        ({"max_detections": 32_001}, "at most 32000"),
    ],
)
def test_impossible_tiles_are_refused(
    config: ScoreConfig, flags: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as error:
        replace(config, **flags)
    assert message in str(error.value).replace(": ", " ")


def test_an_overlap_for_a_detector_without_tiles_is_refused(config: ScoreConfig) -> None:
    with pytest.raises(UserError, match="--tile-overlap 0.1"):
        prepare(replace(config, tile_overlap=0.1))


def rows_of(config: ScoreConfig, **settings: Any) -> list[dict[str, Any]]:
    """Score the images of a command in this process, as a job does."""
    job = prepare(config)
    candidates = read_images(unplanned(job.selection.listed.first(10)), read_settings(job))
    actor = DetectorActor(**detector_settings(job), gpu=False, **settings)
    return list(actor(candidates).to_pylist())


def test_a_row_holds_the_boxes_of_all_tiles(config: ScoreConfig, tiny_checkpoint: Path) -> None:
    tiled = replace(config, tile=40, precision="float32")
    rows = rows_of(tiled)
    assert [row["status"] for row in rows] == ["ok", "undecodable", "ok"]
    assert [row["num_tiles"] for row in rows] == [6, None, 0]
    checkpoint = load_checkpoint(tiny_checkpoint)
    pixels = np.asarray(Image.open(rows[0]["image_uri"])).copy()
    boxes = propose_on_tiles(pixels, checkpoint.proposals, Tiling(side=40))
    assert len(boxes) > checkpoint.proposals.max_boxes
    model = scoring_form(with_config(checkpoint.model, tile=40), bfloat16=False)
    (expected,) = detect_tiled(model, [pixels], [boxes], most_whole=30)
    assert rows[0]["num_proposals"] == len(boxes)
    assert rows[0]["num_detections"] == len(expected.detections.scores) > 5  # 5 in each look
    found = rows[0]["detections"]
    corners = [[d["x_min"], d["y_min"], d["x_max"], d["y_max"]] for d in found]
    torch.testing.assert_close(torch.tensor(corners), expected.detections.boxes)
    assert max(d["x_max"] for d in found) > 40
    assert rows_of(replace(tiled, tile=0))[0]["num_tiles"] is None


def test_the_number_of_looks_in_a_pass_changes_no_row(config: ScoreConfig) -> None:
    tiled = replace(config, tile=40, precision="float32")
    first, second = (rows_of(tiled, images_per_pass=size) for size in (1, 7))
    for one, other in zip(first, second, strict=True):
        assert (one["num_tiles"], one["num_detections"]) == (
            other["num_tiles"],
            other["num_detections"],
        )
        assert one["detections"] == other["detections"]


def test_a_dry_run_measures_tiles_and_says_how_many_there_are(
    config: ScoreConfig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert dry_run._seconds_an_image(prepare(replace(config, tile=40))) > 0
    # 6 tiles in one of three files; one is broken, and one is no larger than a tile.
    assert "tiles of 40 px: 2.0 an image, besides the whole image" in caplog.text
    caplog.clear()
    dry_run._seconds_an_image(prepare(config))
    assert "tiles of" not in caplog.text


def test_a_limit_of_boxes_holds_for_each_look(config: ScoreConfig) -> None:
    rows = rows_of(replace(config, tile=40, max_detections=1, precision="float32"))
    assert 1 < rows[0]["num_detections"] <= 7
    assert rows[2]["num_detections"] == 1


def test_a_table_of_proposals_is_shared_by_the_tiles(config: ScoreConfig, tmp_path: Path) -> None:
    boxes = [[60.0, 10.0, 80.0, 40.0]] * 40  # more than the 30 that the checkpoint allows an image
    names = [str(Path(config.images) / name) for name in ("a.png", "c.png")]
    table = pa.Table.from_pylist(
        [{"image_uri": name, "boxes": boxes, "scores": None} for name in names], schema=PROPOSALS
    )
    pq.write_table(table, tmp_path / "table.parquet")
    rows = rows_of(replace(config, tile=40, proposals=str(tmp_path / "table.parquet")))
    assert rows[0]["num_proposals"] == 40
    assert rows[0]["num_detections"] > 0


def test_tiles_that_do_not_fit_the_gpu_fail_their_image_only(
    config: ScoreConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastrcnn.detection import detect_counting

    def detect(model: Any, pixels: Any, *args: Any, **kwargs: Any) -> list[ScoredImage]:
        if any(one.shape[1] == SIZE[1] for one in pixels):
            raise torch.cuda.OutOfMemoryError("no room")
        return detect_counting(model, pixels, *args, **kwargs)

    monkeypatch.setattr("pipeline.detector.network.detect_counting", detect)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    rows = rows_of(replace(config, tile=40))
    assert [row["status"] for row in rows] == ["failed", "undecodable", "ok"]
    assert "no room" in rows[0]["error"]


def test_the_library_detects_in_tiles(rpn_checkpoint: Path, images: Path) -> None:
    plain, tiled = Detector(rpn_checkpoint), Detector(rpn_checkpoint, tile=40, tile_overlap=0.25)
    assert plain.network.tiling is None
    assert tiled.network.tiling == Tiling(side=40, overlap=0.25)
    large, small = str(images / "a.png"), str(images / "c.png")
    assert len(tiled.detect([large])[0]) > len(plain.detect([large])[0])
    assert tiled.detect([small]) == plain.detect([small])
    boxes, scores = tiled.propose([large])[0]
    model = scoring_form(
        with_config(load_checkpoint(rpn_checkpoint).model, tile=40, tile_overlap=0.25)
    )
    (expected,) = propose_tiled(model, [np.asarray(Image.open(large)).copy()])
    assert len(boxes) == len(scores) == len(expected.scores) > 30
    with pytest.raises(ValueError, match="tile=7: expected"):
        Detector(rpn_checkpoint, tile=7)
