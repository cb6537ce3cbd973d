"""Tests of the training data: a labelled image is used, or reported."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fastrcnn.config import ProposalConfig
from pipeline.config import TrainConfig
from pipeline.errors import JobError, UserError
from pipeline.proposals.table import boxes_array
from pipeline.training.data import read_data, with_proposals

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
    examples, validation = with_proposals(config, GRID, *read_data(config))
    assert [Path(e.image.image_uri).name for e in examples] == ["a.png", "b.picture"]
    assert [len(e.proposals) for e in examples] == [5, 5]
    assert validation == []


@pytest.mark.usefixtures("ray_cluster")
def test_a_deleted_image_counts_as_a_failure(config: TrainConfig) -> None:
    training, validation = read_data(config)
    Path(training.images[0].image_uri).unlink()
    with pytest.raises(JobError, match=r"1 of 2 images .*a\.png: missing"):
        with_proposals(config, GRID, training, validation)


def test_a_table_without_a_row_for_an_image_is_refused(config: TrainConfig, tmp_path: Path) -> None:
    table = tmp_path / "table.parquet"
    boxes = boxes_array([np.zeros((7, 4), np.float32)])
    pq.write_table(pa.table({"image_uri": ["train/a.png"], "boxes": boxes}), table)
    given = TrainConfig(
        data=config.data, output=config.output, proposals=str(table), max_proposals=5
    )
    training, validation = read_data(given)
    with pytest.raises(UserError, match=r"no row for .*b\.picture"):
        with_proposals(given, ProposalConfig(name="table"), training, validation)
