"""Tests that files of earlier versions are read, continued and resumed under their old names.

`golden/<day>/bucket` holds the objects of a bucket that the program of that day wrote, and `golden.json` the
values it gave (`golden/make.py`). These folders never change.
"""

from __future__ import annotations

import io
import json
import lzma
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from fastrcnn.config import ProposalConfig
from pipeline import compact, export, report, score, storage, train
from pipeline.config import CompactConfig, ExportConfig, ReportConfig, ScoreConfig, TrainConfig
from pipeline.detector import Detector
from pipeline.images import decode
from pipeline.proposals import compute_proposals, settings_name
from pipeline.results.scored import find_run, read_run
from pipeline.scoring.preflight import prepare
from tests.golden.make import CACHES, KINDS, PLACES, RUNS, SET, TRAIN

FOLDERS = sorted(path for path in (Path(__file__).parent / "golden").glob("2*") if path.is_dir())


@dataclass(frozen=True)
class Golden:
    """The folder of one day, uploaded to a bucket."""

    folder: Path
    values: dict[str, Any]


@pytest.fixture(params=FOLDERS, ids=lambda path: path.name)
def golden(request: pytest.FixtureRequest, s3_client: Any) -> Iterator[Golden]:
    """Upload the objects of a day to the bucket that their URIs name; empty the bucket afterwards."""
    folder: Path = request.param
    s3_client.create_bucket(Bucket="golden")
    for path in sorted((folder / "bucket").rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            if path.suffix == ".xz":
                data = lzma.decompress(data)
            key = path.relative_to(folder / "bucket").as_posix().removesuffix(".xz")
            s3_client.put_object(Bucket="golden", Key=key, Body=data)
    yield Golden(folder, json.loads((folder / "golden.json").read_text()))
    for info in storage.list_objects("s3://golden"):
        s3_client.delete_object(Bucket="golden", Key=info.uri.removeprefix("s3://golden/"))
    s3_client.delete_bucket(Bucket="golden")


def score_config(run: str) -> ScoreConfig:
    """Give the flags of the command of that day."""
    flags = dict(zip(RUNS[run][::2], RUNS[run][1::2], strict=True))
    return ScoreConfig(
        images="s3://golden/in",
        output="s3://golden/out",
        checkpoint="s3://golden/trained/modern",
        shard_size=4,
        precision="float32" if flags.get("--precision") == "float32" else "auto",
        score_threshold=float(flags["--score-threshold"]) if "--score-threshold" in flags else None,
    )


def train_config(kind: str, output: str) -> TrainConfig:
    """Give the flags of the command of that day."""
    given = [word for word in (*TRAIN, *KINDS[kind]) if word != "--set"]
    settings = tuple(word for word in given if "=" in word)
    words = [word for word in given if "=" not in word]
    flags: dict[str, Any] = {
        name.removeprefix("--").replace("-", "_"): int(value) if value.isdigit() else value
        for name, value in zip(words[::2], words[1::2], strict=True)
    }
    assert set(SET[1:]) <= set(settings)
    return TrainConfig(
        data="s3://golden/labelled", output=f"s3://golden/{output}", set=settings, **flags
    )


def shards(run_id: str) -> dict[str, bytes]:
    """Read every shard of a run, by URI."""
    listed = storage.list_objects(f"s3://golden/out/scored/{run_id}")
    return {info.uri: storage.read_bytes(info.uri) for info in listed}


@pytest.mark.parametrize("run", RUNS)
def test_a_run_keeps_its_id(golden: Golden, run: str) -> None:
    job = prepare(score_config(run))
    job.selection.listed.close()
    assert job.run_id == golden.values["run_ids"][run]


@pytest.mark.parametrize("key", CACHES)
def test_a_cache_of_proposals_keeps_its_name(golden: Golden, key: str) -> None:
    assert settings_name(ProposalConfig(**CACHES[key])) == golden.values["caches"][key]


@pytest.mark.usefixtures("ray_cluster")
def test_the_same_command_has_nothing_to_do(golden: Golden) -> None:
    run_id = golden.values["run_ids"]["plain"]
    before = shards(run_id)
    summary = score.run(score_config("plain"))
    assert (summary.run_id, summary.scored, summary.complete) == (run_id, 0, True)
    rows = golden.values["rows"]["plain"]  # one image has two rows, because it changed
    assert summary.images == len({row["image_uri"] for row in rows}) == len(rows) - 1
    assert shards(run_id) == before


@pytest.mark.usefixtures("ray_cluster")
def test_a_run_with_new_images_keeps_its_columns(golden: Golden, s3_client: Any) -> None:
    """New shards have the same columns as the first ones, so that all shards of a run are alike."""
    run_id = golden.values["run_ids"]["plain"]
    before = shards(run_id)
    newer = (golden.folder / "bucket/in/01.jpg").read_bytes()
    s3_client.put_object(Bucket="golden", Key="in/newer.jpg", Body=newer)
    summary = score.run(score_config("plain"))
    assert (summary.run_id, summary.scored, summary.complete) == (run_id, 1, True)
    after = shards(run_id)
    (made,) = set(after) - set(before)
    old, new = (
        pq.read_schema(io.BytesIO(data)) for data in (*list(before.values())[:1], after[made])
    )
    assert new.remove_metadata() == old.remove_metadata()
    assert new.metadata[b"format_version"] == old.metadata[b"format_version"]


@pytest.mark.parametrize("run", RUNS)
def test_scored_rows_are_read_as_on_that_day(golden: Golden, run: str) -> None:
    run_id, expected = golden.values["run_ids"][run], golden.values["rows"][run]
    rows = [row for data in shards(run_id).values() for row in rows_of(data)]
    kept = [{name: row[name] for name in told} for row, told in zip(rows, expected, strict=True)]
    assert kept == expected
    names = {row["image_uri"].rpartition("/")[2] for row in expected}
    read = read_run(find_run("s3://golden/out", run_id), names)
    latest = {
        row["image_uri"]: row["status"] for row in expected
    }  # the second generation comes last
    assert read.num_rows == len(expected)
    uris, statuses = (read.rows[name].to_pylist() for name in ("image_uri", "status"))
    assert dict(zip(uris, statuses, strict=True)) == latest


def rows_of(data: bytes) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(io.BytesIO(data)).to_pylist()
    return rows


def test_compact_makes_the_same_table(golden: Golden) -> None:
    made = compact.run(CompactConfig(scored="s3://golden/out", output="s3://golden/again"))
    assert {summary.run_id for summary in made} == set(golden.values["run_ids"].values())
    for summary in made:
        old = storage.read_bytes(compact.table_uri("s3://golden/out", summary.run_id))
        assert rows_of(storage.read_bytes(summary.uri)) == rows_of(old)
    again = compact.run(CompactConfig(scored="s3://golden/out", output="s3://golden/out"))
    assert not any(summary.written for summary in again)


def test_report_and_export_read_a_run(golden: Golden, tmp_path: Path) -> None:
    run_id = golden.values["run_ids"]["plain"]
    page = tmp_path / "report.html"
    report.run(ReportConfig(scored="s3://golden/out", output=str(page), run_id=run_id))
    assert "00.jpg" in page.read_text()
    flags: dict[str, Any] = {"scored": "s3://golden/out", "run_id": run_id, "format": "coco"}
    export.run(ExportConfig(output=str(tmp_path / "coco"), **flags))
    (results,) = (tmp_path / "coco").glob("*results*.json")
    newest = {
        row["image_uri"]: row["num_detections"] or 0 for row in golden.values["rows"]["plain"]
    }
    assert len(json.loads(results.read_text())) == sum(newest.values())


@pytest.mark.parametrize("kind", PLACES)
def test_a_checkpoint_gives_the_same_boxes(golden: Golden, kind: str) -> None:
    detector = Detector(f"s3://golden/{PLACES[kind]}", precision="float32", num_threads=1)
    images = ["s3://golden/in/01.jpg", "s3://golden/in/drawn.png"]
    for boxes, expected in zip(detector.detect(images), golden.values["boxes"][kind], strict=True):
        assert len(boxes) >= len(expected)
        for box, told in zip(boxes, expected, strict=False):
            assert {k: v for k, v in box.items() if k in told} == pytest.approx(told, abs=2e-3)


@pytest.mark.usefixtures("ray_cluster")
def test_a_cache_of_proposals_is_used(golden: Golden, caplog: pytest.LogCaptureFixture) -> None:
    """The part of that day holds all images, so no proposals are computed."""
    config = prepared_proposals("paper")
    images = storage.list_objects("s3://golden/labelled/JPEGImages")
    before = storage.list_objects("s3://golden/trained/paper/proposals")
    with caplog.at_level("INFO", logger="pipeline.proposals"):
        boxes, errors = compute_proposals(images, config, "s3://golden/trained/paper/proposals")
    assert f"has all {len(images)} images" in caplog.text
    assert (len(boxes), errors) == (len(images), {})
    assert storage.list_objects("s3://golden/trained/paper/proposals") == before


def prepared_proposals(kind: str) -> ProposalConfig:
    """Give the config of the proposer in the checkpoint of a training."""
    config = json.loads(storage.read_bytes(f"s3://golden/{PLACES[kind]}/config.json"))
    return ProposalConfig(**config["proposals"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_finished_training_is_not_repeated(golden: Golden, kind: str) -> None:
    config = train_config(kind, f"trained/{kind}")
    result = train.run(config)
    assert result is not None
    told = json.loads(storage.read_bytes(f"{config.output}/result.json"))
    assert result.num_iterations == told["num_iterations"] == 40
    assert (result.checkpoint, result.val_map) == (told["checkpoint"], told["val_map"])


@pytest.mark.long
@pytest.mark.usefixtures("ray_cluster")
def test_an_interrupted_training_resumes_with_the_losses_of_an_undisturbed_one(
    golden: Golden,
) -> None:
    train.run(train_config("modern", "interrupted"))
    curves = json.loads(storage.read_bytes("s3://golden/interrupted/metrics.json"))
    losses = [row["loss"] for row in curves["steps"]]
    # Another processor rounds differently, and the differences add up over the steps.
    assert losses == pytest.approx(golden.values["losses"]["modern"], rel=1e-3)


def test_an_image_of_that_day_decodes(golden: Golden) -> None:
    """All golden images are complete, except one that is broken on purpose."""
    good = [path for path in (golden.folder / "bucket/in").iterdir() if path.stem != "broken"]
    assert len(good) == 11
    assert all(decode(path.read_bytes()).pixels.shape[0] == 48 for path in good)
