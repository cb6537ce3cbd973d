"""Tests of the training data: a labelled image is used, or reported."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fastrcnn.config import ProposalConfig
from pipeline.config import TrainConfig
from pipeline.errors import JobError, UserError
from pipeline.proposals.table import boxes_array
from pipeline.training.data import join_proposals, read_data, read_parts
from pipeline.training.held_out import write_parts
from pipeline.training.stored_run import StoredRun
from tests.pipeline.annotations.corpus import XML

GRID = ProposalConfig(name="grid", max_boxes=5)


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    """Make a data set of two images; the suffix of one is not an image suffix."""
    folder = tmp_path / "data" / "train"
    folder.mkdir(parents=True)
    names = ["a.png", "b.picture"]
    for name in names:
        Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(folder / name, format="PNG")
    document = {
        "images": [{"id": k, "file_name": name} for k, name in enumerate(names)],
        "annotations": [{"id": 1, "image_id": 0, "category_id": 1, "bbox": [1, 2, 30, 20]}],
        "categories": [{"id": 1, "name": "thing"}],
    }
    (folder / "annotations.json").write_text(json.dumps(document))
    return TrainConfig(
        data=str(tmp_path / "data"), output=str(tmp_path / "output"), max_proposals=5
    )


@pytest.mark.usefixtures("ray_cluster")
def test_an_image_with_an_unknown_suffix_is_used(config: TrainConfig) -> None:
    examples, validation = join_proposals(config, GRID, *read_data(config))
    assert [Path(e.image.image_uri).name for e in examples] == ["a.png", "b.picture"]
    assert [len(e.proposals) for e in examples] == [5, 5]
    assert validation == []


@pytest.mark.usefixtures("ray_cluster")
def test_a_deleted_image_counts_as_a_failure(config: TrainConfig) -> None:
    training, validation = read_data(config)
    Path(training.images[0].image_uri).unlink()
    with pytest.raises(JobError, match=r"1 of 2 images .*a\.png: missing"):
        join_proposals(config, GRID, training, validation)


def test_a_table_without_a_row_for_an_image_is_refused(config: TrainConfig, tmp_path: Path) -> None:
    table = tmp_path / "table.parquet"
    boxes = boxes_array([np.zeros((7, 4), np.float32)])
    pq.write_table(pa.table({"image_uri": ["train/a.png"], "boxes": boxes}), table)
    given = TrainConfig(
        data=config.data, output=config.output, proposals=str(table), max_proposals=5
    )
    training, validation = read_data(given)
    with pytest.raises(UserError, match=r"no row for .*b\.picture"):
        join_proposals(given, ProposalConfig(name="table"), training, validation)


def validated(tmp_path: Path, *names: str, **flags: Any) -> list[str]:
    """Give the names of the validation images for a data set with these splits, of two images each."""
    for split in names:
        folder = tmp_path / "data" / split
        folder.mkdir(parents=True, exist_ok=True)
        for stem in ("1", "2"):
            Image.new("RGB", (40, 30)).save(folder / f"{split}{stem}.png")
            (folder / f"{split}{stem}.xml").write_text(XML)
    config = TrainConfig(data=str(tmp_path / "data"), output=str(tmp_path / "output"), **flags)
    _, validation = read_data(config)
    return [image.image_id for image in validation.images] if validation else []


def test_the_split_that_belongs_to_the_training_is_validated_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert validated(tmp_path, "train", "valid", "test") == ["valid1", "valid2"]
    assert "not validating" not in caplog.text
    assert validated(tmp_path, split="valid") == []
    assert "not validating; splits here: test, train, valid." in caplog.text


def test_a_limit_holds_for_the_validation_too(tmp_path: Path) -> None:
    assert validated(tmp_path, "train", "val", limit=1) == ["val1"]


def test_an_output_from_before_keeps_its_validation(tmp_path: Path) -> None:
    (tmp_path / "output").mkdir()
    (tmp_path / "output/run.json").write_text("{}")
    assert validated(tmp_path, "train", "valid") == []
    assert validated(tmp_path, "train", "val", limit=1) == ["val1", "val2"]
    (tmp_path / "output/run.json").write_text('{"splits": "by role"}')
    assert validated(tmp_path, limit=1) == ["val1"]


def test_images_that_are_trained_and_validated_on_are_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert validated(tmp_path, "train", val_split="train") == ["train1", "train2"]
    assert "2 of 2 validation images are training images too" in caplog.text


def test_a_share_is_validated_on_instead_of_a_split(tmp_path: Path) -> None:
    found = validated(tmp_path, "train", "val", val_fraction=0.5)
    assert found in (["train1"], ["train2"])
    assert validated(tmp_path, val_fraction=0.0) == []


def voc_set(folder: Path, objects: dict[str, str], size: tuple[int, int] = (40, 30)) -> None:
    """Write images of 40 x 30 pixels, and XML files with these objects and this size."""
    (folder / "train").mkdir(parents=True)
    for stem, text in objects.items():
        Image.new("RGB", (40, 30)).save(folder / f"train/{stem}.png")
        stated = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>"
        (folder / f"train/{stem}.xml").write_text(f"<annotation>{stated}{text}</annotation>")


def cup(x1: int, y1: int, x2: int, y2: int) -> str:
    corners = f"<xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
    return f"<object><name>cup</name><bndbox>{corners}</bndbox></object>"


def test_the_report_holds_every_bad_label(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    voc_set(tmp_path / "data", {"a": cup(1, 1, 9, 9) + cup(30, 1, 60, 9), "b": cup(9, 1, 1, 9)})
    report = tmp_path / "report.csv"
    flags: dict[str, Any] = {"data": str(tmp_path / "data"), "report": str(report)}
    with pytest.raises(UserError, match="2 bad labels in 2 files"):
        read_data(TrainConfig(output=str(tmp_path / "out"), **flags))
    with report.open() as file:
        rows = list(csv.DictReader(file))
    assert [Path(row["file"]).name for row in rows] == ["a.xml", "b.xml"]
    assert [row["place"] for row in rows] == ["object 2", "object 1"]
    assert {row["done"] for row in rows} == {"refused"}
    training, _ = read_data(TrainConfig(output=str(tmp_path / "out"), on_bad_label="clip", **flags))
    assert training.images[0].gt_boxes.tolist() == [[0, 0, 9, 9], [29, 0, 40, 9]]
    assert "2 bad labels in 2 files" in caplog.text
    assert "1 cut at the edge" in caplog.text


def test_bad_labels_of_training_and_validation_are_listed_together(tmp_path: Path) -> None:
    voc_set(tmp_path / "data", {"a": cup(1, 1, 9, 9) + cup(30, 1, 60, 9)})
    voc_set(tmp_path / "more", {"v": cup(1, 1, 9, 9) + cup(1, 20, 9, 60)})
    (tmp_path / "more/train").rename(tmp_path / "data/val")
    config = TrainConfig(data=str(tmp_path / "data"), output=str(tmp_path / "out"))
    with pytest.raises(UserError, match=r"2 bad labels in 2 files: .*a\.xml.*v\.xml"):
        read_data(config)


def test_max_failures_bounds_images_without_readable_labels(tmp_path: Path) -> None:
    voc_set(tmp_path / "data", {stem: cup(1, 1, 9, 9) for stem in "abc"})
    (tmp_path / "data/train/b.xml").write_text("<annotation>")
    flags: dict[str, Any] = {"data": str(tmp_path / "data"), "output": str(tmp_path / "out")}
    with pytest.raises(JobError, match=r"1 of 3 images .*b\.png"):
        read_data(TrainConfig(on_bad_label="skip", **flags))
    training, _ = read_data(TrainConfig(on_bad_label="skip", max_failures=0.4, **flags))
    assert [image.image_id for image in training.images] == ["a", "c"]


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("proposals", ["grid", "table"])
def test_a_size_that_is_not_the_image_s_is_refused_or_skipped(
    tmp_path: Path, proposals: str
) -> None:
    voc_set(tmp_path / "data", {"a": cup(1, 1, 9, 9)})
    voc_set(tmp_path / "more", {"b": cup(1, 1, 9, 9)}, size=(80, 60))
    for name in ("b.png", "b.xml"):
        (tmp_path / "more/train" / name).rename(tmp_path / "data/train" / name)
    table = tmp_path / "table.parquet"
    boxes = boxes_array([np.array([[1, 1, 9, 9]], np.float32)] * 2)
    pq.write_table(pa.table({"image_uri": ["train/a.png", "train/b.png"], "boxes": boxes}), table)
    flags: dict[str, Any] = {
        "data": str(tmp_path / "data"),
        "output": str(tmp_path / "out"),
        "max_proposals": 5,
        "proposals": str(table) if proposals == "table" else "grid",
        "max_failures": 0.6,
        "report": str(tmp_path / "report.csv"),
    }
    proposer = ProposalConfig(name=proposals, max_boxes=5)
    refusing = TrainConfig(**flags)
    with pytest.raises(UserError, match=r"b\.png\): states 80 x 60 pixels, but .* 40 x 30"):
        join_proposals(refusing, proposer, *read_data(refusing))
    skipping = TrainConfig(on_bad_label="skip", **flags)
    examples, _ = join_proposals(skipping, proposer, *read_data(skipping))
    assert [Path(e.image.image_uri).name for e in examples] == ["a.png"]
    assert "image left out" in (tmp_path / "report.csv").read_text()


def two_sets(tmp_path: Path, first: Sequence[str], second: Sequence[str]) -> tuple[str, str]:
    """Make two data sets with these splits, of two images each; the paths in both are the same."""
    for name, names in (("one", first), ("two", second)):
        for split in names:
            folder = tmp_path / name / split
            folder.mkdir(parents=True, exist_ok=True)
            for stem in ("1", "2"):
                Image.new("RGB", (40, 30)).save(folder / f"{split}{stem}.png")
                (folder / f"{split}{stem}.xml").write_text(XML)
    return str(tmp_path / "one"), str(tmp_path / "two")


def test_sets_with_a_validation_split_are_validated_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    data = two_sets(tmp_path, ("train", "valid"), ("train", "test"))
    training, validation = read_data(TrainConfig(data=data, output=str(tmp_path / "out")))
    assert len(training.images) == 4
    assert validation is not None
    assert [image.image_id for image in validation.images] == ["valid1", "valid2"]
    assert f"validating on valid of {data[0]}; {data[1]} has no such split, only test, train" in (
        caplog.text
    )


def test_without_a_validation_split_the_log_lists_the_splits_of_each_set(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    data = two_sets(tmp_path, ("train",), ("train", "test"))
    assert read_data(TrainConfig(data=data, output=str(tmp_path / "out")))[1] is None
    assert f"not validating; splits of {data[0]}: train; of {data[1]}: test, train" in caplog.text
    flags = TrainConfig(data=data, output=str(tmp_path / "out"), val_split="dev")
    with pytest.raises(UserError, match="--val-split dev: no data set has such a split"):
        read_data(flags)


def test_a_fraction_of_each_set_is_the_same_whatever_the_other_sets(tmp_path: Path) -> None:
    one, two = two_sets(tmp_path, ("train", "val"), ("train",))

    def held_out(*data: str) -> set[str]:
        flags = TrainConfig(data=data, output=str(tmp_path / "out"), val_fraction=0.5)
        _, validation = read_data(flags)
        assert validation is not None
        return {image.image_uri for image in validation.images}

    alone = held_out(one), held_out(two)
    assert held_out(two, one) == alone[0] | alone[1]
    assert {uri.removeprefix(one) for uri in alone[0]} == {
        uri.removeprefix(two) for uri in alone[1]
    }


def test_written_parts_of_several_sets_can_be_read_as_splits(tmp_path: Path) -> None:
    data = two_sets(tmp_path, ("train",), ("train",))
    config = TrainConfig(data=data, output=str(tmp_path / "out"), val_fraction=0.5)
    training, validation, parts = read_parts(config, StoredRun(None))
    assert parts is not None
    write_parts(config, parts)
    again, _ = read_data(
        TrainConfig(data=data, output=str(tmp_path / "b"), split=f"{tmp_path}/out/splits/train.txt")
    )
    assert [i.image_uri for i in again.images] == [i.image_uri for i in training.images]


def test_a_row_of_a_table_that_fits_images_of_two_sets_is_refused(tmp_path: Path) -> None:
    data = two_sets(tmp_path, ("train",), ("train",))
    table = tmp_path / "table.parquet"

    def write(*names: str) -> TrainConfig:
        boxes = boxes_array([np.zeros((7, 4), np.float32)] * len(names))
        pq.write_table(pa.table({"image_uri": names, "boxes": boxes}), table)
        return TrainConfig(data=data, output=str(tmp_path / "out"), proposals=str(table))

    proposer = ProposalConfig(name="table")
    config = write("train/train1.png", "train/train2.png")
    with pytest.raises(UserError, match="may be of .*one/train.* or of .*two/train"):
        join_proposals(config, proposer, *read_data(config))


def test_labels_apart_and_several_sets_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--data a b --images-at c: several data sets"):
        TrainConfig(data=("a", "b"), images_at="c", output="out")
    with pytest.raises(UserError, match=r"--data 's3://': expected a path"):
        TrainConfig(data=("a", "s3://"), output="out")
