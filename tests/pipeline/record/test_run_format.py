"""A run keeps the format that it began with."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Collection, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline import record, storage
from pipeline.config import ScoreConfig
from pipeline.errors import UserError
from pipeline.images import DECODER_VERSION
from pipeline.record import run_format
from pipeline.record.manifest import write_manifest
from pipeline.record.run_format import RunFormat, begin_run, read_format, warn_of_other_decoders
from pipeline.schema import FIRST_COLUMNS, SCORED, TABLE_VERSION
from pipeline.scoring.preflight import Job, prepare
from tests.pipeline.record_cases import committer, planned, result, rows_of


@pytest.fixture
def job(tiny_checkpoint: Path, tmp_path: Path) -> Iterator[Job]:
    (tmp_path / "in").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "in" / "a.jpg")
    config = ScoreConfig(
        images=str(tmp_path / "in"), checkpoint=str(tiny_checkpoint), output=str(tmp_path / "out")
    )
    prepared = prepare(config)
    yield prepared
    prepared.selection.listed.close()


CLASSES = ("cat", "dog")


def begin(job: Job, done: Collection[int] = ()) -> RunFormat:
    return begin_run(job.config.output, job.run_id, done, {"model_id": "m"})


def config_uri(job: Job) -> str:
    return record.run_file_uri(job.config.output, job.run_id, "config.json")


def test_config_json_of_a_new_run_names_all_columns(job: Job) -> None:
    begun = begin(job)
    assert begun.columns == tuple(SCORED.names)
    assert json.loads(storage.read_bytes(config_uri(job)))["columns"] == SCORED.names
    assert begun.metadata(CLASSES, "m")[b"format_version"] == str(TABLE_VERSION).encode()


def test_a_run_of_version_1_keeps_its_columns(job: Job) -> None:
    storage.write_bytes(config_uri(job), json.dumps({"run_id": job.run_id}).encode())
    begun = begin(job, {0})
    assert begun == RunFormat(columns=FIRST_COLUMNS, format_version=1, decoder_version=1)
    assert begun.metadata(CLASSES, "m")[b"format_version"] == b"1"


def test_a_run_of_a_newer_version_is_refused(job: Job) -> None:
    newer = {"format_version": TABLE_VERSION + 1, "columns": [*SCORED.names, "mood"]}
    storage.write_bytes(config_uri(job), json.dumps(newer).encode())
    with pytest.raises(UserError, match="newer version.*Install the newer version"):
        begin(job)


@pytest.mark.parametrize("text", ["no JSON", "[1]", '{"columns": ["mood"]}', '{"columns": 3}'])
def test_a_damaged_config_json_is_refused(job: Job, text: str) -> None:
    storage.write_bytes(config_uri(job), text.encode())
    with pytest.raises(UserError, match="does not describe a scoring run"):
        read_format(config_uri(job))


@pytest.mark.parametrize("columns", [FIRST_COLUMNS, tuple(SCORED.names)], ids=["old", "new"])
def test_without_config_json_the_columns_are_read_from_a_shard(
    job: Job, columns: tuple[str, ...]
) -> None:
    version = 1 if columns == FIRST_COLUMNS else TABLE_VERSION
    kept = RunFormat(columns=columns, format_version=version, decoder_version=DECODER_VERSION)
    work = planned(job.config.output, 3)
    writer = committer(
        job.config.output,
        work,
        run_id=job.run_id,
        columns=columns,
        metadata=kept.metadata(CLASSES, "m"),
    )
    writer.add(result(rows_of(work)))
    writer.close()
    assert begin(job, {0}) == kept
    assert read_format(config_uri(job)) == kept


def test_a_shard_names_its_decoder_and_the_hash_of_its_generation(job: Job) -> None:
    work = planned(job.config.output, 3)
    begun = begin(job)
    metadata = begun.metadata(CLASSES, "m")
    writer = committer(job.config.output, work, run_id=job.run_id, metadata=metadata)
    writer.add(result(rows_of(work)))
    writer.close()
    data = storage.read_bytes(record.shard_uri(job.config.output, job.run_id, 0))
    table = pq.read_table(io.BytesIO(data))
    assert table.schema.metadata[b"decoder_version"] == str(DECODER_VERSION).encode()
    assert table.schema.metadata[b"plan_sha256"].decode() == work.generations[0].sha256
    assert table["generation"].to_pylist() == [1, 1, 1]


def test_rows_of_another_decoder_are_counted(
    job: Job, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Shard 0 (three rows) was made by decoder 1, shard 1 (one row) by decoder 2, which is today's."""
    work = planned(job.config.output, 4)
    begun = begin(job)
    made = []
    for shard, decoder in enumerate((1, 2)):
        monkeypatch.setattr(run_format, "DECODER_VERSION", decoder)
        writer = committer(
            job.config.output,
            work,
            [shard],
            run_id=job.run_id,
            metadata=begun.metadata(CLASSES, "m"),
        )
        writer.add(result(rows_of(work, [shard])))
        writer.close()
        made += writer.shards
    write_manifest(job.config.output, job.run_id, work, made)
    with caplog.at_level(logging.WARNING, logger="pipeline"):
        assert warn_of_other_decoders(job.run_id, work, {0, 1}, begun) == 3
    assert "3 of its rows were made with another version of the image decoder" in caplog.text
    assert "--fresh" in caplog.text


def test_fresh_starts_another_run(job: Job) -> None:
    """The same command with --fresh continues that run."""
    ids = []
    for fresh in (False, True, True):
        config = ScoreConfig(
            images=job.config.images,
            checkpoint=job.config.checkpoint,
            output=job.config.output,
            fresh=fresh,
        )
        again = prepare(config)
        ids.append(again.run_id)
        again.selection.listed.close()
    assert ids[0] == job.run_id
    assert ids[1] == ids[2] != job.run_id
