"""The user's mistakes are reported before a worker starts."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.config import ScoreConfig
from pipeline.errors import UserError
from pipeline.proposals.reading import read_images, unplanned
from pipeline.schema import PROPOSALS
from pipeline.scoring.preflight import (
    hashed_facts,
    prepare,
    read_settings,
    resolve_proposals,
)
from pipeline.storage.checkpoints import find_checkpoint, load
from tests.pipeline.storage.web_server import Page, serving


@pytest.fixture
def config(tmp_path: Path, tiny_checkpoint: Path) -> ScoreConfig:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "a.png")
    return ScoreConfig(
        images=str(tmp_path / "images"),
        checkpoint=str(tiny_checkpoint),
        output=str(tmp_path / "out"),
    )


def changed(config: ScoreConfig, **changes: object) -> ScoreConfig:
    return ScoreConfig(**{n: getattr(config, n) for n in config.__slots__} | changes)


def test_the_same_command_has_the_same_run_id(config: ScoreConfig) -> None:
    assert prepare(config).run_id == prepare(changed(config, batch_size=3, num_workers=9)).run_id


@pytest.mark.parametrize(
    "change",
    [
        {"score_threshold": 0.5},
        {"proposals": "opencv"},
        {"max_pixels": 9},
        {"seed": 4},
        {"precision": "float32"},
        {"range": (0.0, 4095.0)},
        {"bands": (4, 3, 2)},
        {"truncated": "refuse"},
    ],
)
def test_a_flag_that_changes_rows_changes_the_run_id(
    config: ScoreConfig, change: dict[str, object]
) -> None:
    assert prepare(config).run_id != prepare(changed(config, **change)).run_id


def test_the_output_of_a_training_is_accepted_as_a_checkpoint(tiny_checkpoint: Path) -> None:
    assert find_checkpoint(str(tiny_checkpoint.parent)) == str(tiny_checkpoint)


@pytest.mark.parametrize("fault", ["truncated", "no weights", "config is no JSON", "not there"])
def test_an_unreadable_checkpoint_is_refused(
    config: ScoreConfig, tiny_checkpoint: Path, tmp_path: Path, fault: str
) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(tiny_checkpoint, folder)
    weights = folder / "model.safetensors"
    if fault == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif fault == "no weights":
        weights.unlink()
    elif fault == "config is no JSON":
        (folder / "config.json").write_text("{")
    else:
        shutil.rmtree(folder)
    with pytest.raises(UserError, match=f"--checkpoint {folder}"):
        prepare(changed(config, checkpoint=str(folder)))


@pytest.mark.parametrize("proposals", ["selective", "no/such/table.parquet"])
def test_unknown_proposals_are_refused(config: ScoreConfig, proposals: str) -> None:
    with pytest.raises(UserError, match=proposals):
        prepare(changed(config, proposals=proposals))


@pytest.mark.parametrize("fault", ["no Parquet", "other columns", "empty folder"])
def test_a_file_that_is_not_a_proposals_table_is_refused(
    config: ScoreConfig, tmp_path: Path, fault: str
) -> None:
    folder = tmp_path / "table"
    folder.mkdir()
    if fault == "no Parquet":
        (folder / "part.parquet").write_bytes(b"PAR1")
    elif fault == "other columns":
        pq.write_table(pa.table({"key": ["a"]}), folder / "part.parquet")
    with pytest.raises(UserError, match="table"):
        prepare(changed(config, proposals=str(folder)))


def test_a_proposals_table_is_part_of_the_run_id(config: ScoreConfig, tmp_path: Path) -> None:
    table, ids = tmp_path / "table.parquet", set()
    for boxes in ([[0.0, 0.0, 1.0, 1.0]], []):
        rows = [{"image_uri": "a.png", "boxes": boxes}]
        pq.write_table(pa.Table.from_pylist(rows, schema=PROPOSALS), table)
        job = prepare(changed(config, proposals=str(table)))
        ids.add(job.run_id)
        assert (job.table, job.proposals.name) == (str(table), "table")
    assert len(ids | {prepare(config).run_id}) == 3


def test_a_detector_with_an_rpn_uses_its_rpn_unless_proposals_are_given(
    config: ScoreConfig, rpn_checkpoint: Path, tmp_path: Path
) -> None:
    own = changed(config, checkpoint=str(rpn_checkpoint))
    assert prepare(own).proposals.name == "rpn"
    assert prepare(changed(own, proposals="rpn")).run_id == prepare(own).run_id
    other = prepare(changed(own, proposals="grid"))
    assert other.proposals.name == "grid"
    assert other.run_id != prepare(own).run_id
    table = tmp_path / "table.parquet"
    rows = [{"image_uri": "a.png", "boxes": []}]
    pq.write_table(pa.Table.from_pylist(rows, schema=PROPOSALS), table)
    assert prepare(changed(own, proposals=str(table))).table == str(table)


def test_rpn_proposals_are_refused_for_a_detector_without_an_rpn(config: ScoreConfig) -> None:
    with pytest.raises(UserError, match="has no RPN: it was trained on grid"):
        prepare(changed(config, proposals="rpn"))


@pytest.mark.parametrize(
    "change", [{"score_threshold": 1.5}, {"gpus_per_worker": -1.0}, {"max_failures": 2.0}]
)
def test_flags_out_of_range_are_refused(config: ScoreConfig, change: dict[str, object]) -> None:
    flag = "--" + next(iter(change)).replace("_", "-")
    with pytest.raises(UserError, match=flag):
        changed(config, **change)


@pytest.mark.parametrize(
    "change",
    [
        {"uri_column": "photo"},
        {"list_format": "s3-batch"},
        {"list_root": "s3://b"},
        {"allow_http": True},
        {"allow_private_hosts": True},
        {"max_workers": 2},
        {"wait_for_nodes": 5.0},
    ],
)
def test_flags_of_lists_and_nodes_are_not_hashed(
    config: ScoreConfig, change: dict[str, object]
) -> None:
    checkpoint = load(find_checkpoint(config.checkpoint))
    proposals, table = resolve_proposals(config, checkpoint)
    facts = [
        hashed_facts(given, checkpoint, proposals, table)
        for given in (config, changed(config, **change))
    ]
    assert facts[0] == facts[1]


def test_a_job_reads_no_private_hosts_unless_it_may(config: ScoreConfig, tmp_path: Path) -> None:
    """The limits go from the flags to the look-up on the driver and to the workers."""
    data = (tmp_path / "images" / "a.png").read_bytes()
    with serving({"/a.png": Page(data)}) as site:
        (tmp_path / "list.csv").write_text(f"url\n{site.address}/a.png\n")
        listed = changed(config, images=str(tmp_path / "list.csv"))
        with pytest.raises(UserError, match=r"list\.csv, line 2: .*--allow-http"):
            prepare(listed)
        statuses = []
        for allowed in (False, True):
            job = prepare(changed(listed, allow_http=True, allow_private_hosts=allowed))
            rows = unplanned(job.selection.listed.first(9))
            statuses += read_images(rows, read_settings(job))["status"].to_pylist()
            statuses.append(len(site.requests))
        assert statuses == ["denied", 0, "ok", 2]


def test_a_named_column_and_a_root_are_used(config: ScoreConfig, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("id,photo\n1,a.png\n")
    images = str(tmp_path / "list.csv")
    with pytest.raises(UserError, match="'id', 'photo'.*--uri-column"):
        prepare(changed(config, images=images))
    job = prepare(
        changed(config, images=images, uri_column="photo", list_root=str(tmp_path / "images"))
    )
    assert job.selection.listed.first(9)["image_uri"].to_pylist() == [f"{tmp_path}/images/a.png"]
