"""The user's mistakes are reported before a worker starts."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.config import ScoreConfig
from pipeline.errors import UserError
from pipeline.schema import PROPOSALS
from pipeline.scoring.preflight import prepare, size_cluster
from pipeline.storage.checkpoints import find_checkpoint


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


@pytest.mark.parametrize("gpus", [0, 1, 2, 8])
@pytest.mark.parametrize("cpus", [1, 2, 3, 4, 8, 64])
@pytest.mark.parametrize("asked", [None, 1, 4, 100])
def test_a_read_always_has_cpus_left_beside_all_detectors(
    config: ScoreConfig, cpus: int, gpus: int, asked: int | None
) -> None:
    cluster = {"CPU": float(cpus), "GPU": float(gpus)}
    found = size_cluster(changed(config, num_workers=asked), cluster)
    assert found.workers >= 1
    assert found.workers * found.detector_cpus + found.read_cpus <= cpus
    assert found.workers * found.detector_gpus <= gpus
    assert found.workers <= (asked or 100)
    assert found.detector_cpus != found.read_cpus  # else Ray Data fuses the stages


@pytest.mark.parametrize(
    "nodes", [(1.0, 1.0), (1.0,) * 3, (2.0, 2.0), (2.0, 1.0), (3.0, 0.0), (4.0, 4.0)]
)
@pytest.mark.parametrize("asked", [None, 1, 2])
def test_a_read_has_cpus_left_on_a_node_that_is_full_of_detectors(
    config: ScoreConfig, nodes: tuple[float, ...], asked: int | None
) -> None:
    found = size_cluster(changed(config, num_workers=asked), {"CPU": sum(nodes)}, nodes)
    assert 1 <= found.workers <= (asked or 100)
    counts = (range(int(cpus / found.detector_cpus) + 1) for cpus in nodes)
    placed = [each for each in itertools.product(*counts) if sum(each) == found.workers]
    assert placed
    for each in placed:  # wherever Ray puts the Detectors
        free = [cpus - n * found.detector_cpus for cpus, n in zip(nodes, each, strict=True)]
        assert max(free) >= found.read_cpus


def test_small_nodes_hold_a_detector_each(config: ScoreConfig) -> None:
    found = size_cluster(config, {"CPU": 2.0}, (0.0, 1.0, 1.0))
    assert (found.workers, found.detector_cpus, found.read_cpus) == (2, 0.5, 0.45)
    whole = size_cluster(config, {"CPU": 2.0}, (2.0,))
    assert whole == size_cluster(config, {"CPU": 2.0})
    assert (whole.workers, whole.detector_cpus) == (2, 0.75)


def test_gpus_are_used_where_there_are_any(config: ScoreConfig) -> None:
    cluster = {"CPU": 8.0, "GPU": 2.0}
    assert size_cluster(config, cluster).detector_gpus == 1.0
    half = size_cluster(changed(config, gpus_per_worker=0.5), cluster)
    assert (half.workers, half.detector_gpus) == (4, 0.5)
    assert size_cluster(changed(config, gpus_per_worker=0.0), cluster).detector_gpus == 0.0


def test_more_gpus_than_the_cluster_has_are_refused(config: ScoreConfig) -> None:
    with pytest.raises(UserError, match="the cluster has 0 GPUs"):
        size_cluster(changed(config, gpus_per_worker=1.0), {"CPU": 8.0})
    with pytest.raises(UserError, match="no CPU"):
        size_cluster(config, {})
