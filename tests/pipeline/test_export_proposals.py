"""The exported proposals of an RPN: one row per image, best first; training and scoring read them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fastrcnn.checkpoint import load_checkpoint
from fastrcnn.config import ProposalConfig
from fastrcnn.detection import propose_learned
from fastrcnn.scoring_form import scoring_form
from pipeline import storage
from pipeline.config.tools import ExportProposalsConfig
from pipeline.errors import JobError, UserError
from pipeline.export_proposals import Proposer, run
from pipeline.proposals.table import ProposalsTable, find_table
from pipeline.schema import PROPOSALS_EXPORT
from pipeline.scoring.candidates import ReadSettings, read_images
from tests.pipeline.record_cases import planned_rows


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two images and a broken file between them."""
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("a.png", (30, 40, 3)), ("c.png", (50, 20, 3))):
        Image.fromarray(rng.integers(0, 255, size, dtype=np.uint8)).save(folder / name)
    (folder / "b.png").write_bytes(b"no image")
    return folder


def config(
    images: Path, checkpoint: Path, output: Path, **changes: object
) -> ExportProposalsConfig:
    flags = {"images": str(images), "checkpoint": str(checkpoint), "output": str(output)}
    return ExportProposalsConfig(**(flags | {"num_workers": 1, "max_failures": 0.5} | changes))


def test_rows_hold_the_proposals_of_the_model_and_failures_have_a_cause(
    images: Path, rpn_checkpoint: Path
) -> None:
    settings = ReadSettings(proposals=ProposalConfig(name="rpn"))
    rows = Proposer(str(rpn_checkpoint))(
        read_images(planned_rows(str(images), [0, 0, 0]), settings)
    )
    assert rows.schema == PROPOSALS_EXPORT
    model = scoring_form(load_checkpoint(rpn_checkpoint).model)
    for index in (0, 2):
        pixels = np.asarray(Image.open(rows["image_uri"][index].as_py())).copy()
        (own,) = propose_learned(model, [pixels])
        np.testing.assert_array_equal(rows["boxes"][index].as_py(), own.boxes)
        np.testing.assert_array_equal(rows["scores"][index].as_py(), own.scores)
        assert rows["error"][index].as_py() is None
    assert rows["error"][1].as_py().startswith("undecodable: ")
    assert rows["boxes"][1].as_py() is None


@pytest.mark.usefixtures("ray_cluster")
def test_new_images_are_added_to_a_table_and_other_jobs_read_it(
    images: Path, rpn_checkpoint: Path, tmp_path: Path
) -> None:
    output = tmp_path / "table"
    wanted = config(images, rpn_checkpoint, output)
    assert run(replace(wanted, dry_run=True)) == 0
    assert not output.exists()
    with pytest.raises(JobError, match=r"1 of 3 images cannot be used.*b\.png: undecodable"):
        run(replace(wanted, max_failures=0.2))
    Image.new("RGB", (32, 32), "red").save(images / "b.png")
    assert run(wanted) == 1
    assert run(wanted) == 0
    assert find_table(str(output)) == str(output)
    table = ProposalsTable.read(str(output), root=str(images))
    (own,) = propose_learned(
        scoring_form(load_checkpoint(rpn_checkpoint).model),
        [np.asarray(Image.open(images / "a.png")).copy()],
    )
    uri = storage.absolute(str(images / "a.png"))
    np.testing.assert_array_equal(table.of(uri, 2000), own.boxes)
    assert len(table.of(uri, 5)) == 5
    assert len(table.boxes) == 3
    (settings,) = {pq.read_schema(part).metadata[b"proposals"] for part in output.iterdir()}
    assert json.loads(settings)["rpn"]["sides"] == [[16.0, 32.0]]


def test_a_detector_without_an_rpn_is_refused(
    images: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="has no RPN: it was trained on grid"):
        run(config(images, tiny_checkpoint, tmp_path / "table"))
    assert not (tmp_path / "table").exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [("table", "proposals of another detector"), ("text", "not a part of this")],
)
def test_a_folder_with_other_files_is_refused(
    images: Path, rpn_checkpoint: Path, tmp_path: Path, content: str, reason: str
) -> None:
    other = tmp_path / "table" / "other.parquet"
    other.parent.mkdir()
    if content == "table":
        pq.write_table(pa.table({"image_uri": ["a"], "etag": ["b"]}), other)
    else:
        other.write_text("no Parquet")
    with pytest.raises(UserError, match=reason):
        run(config(images, rpn_checkpoint, tmp_path / "table"))
