"""A shard that is not what was written is recognized."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from pipeline import record, storage
from pipeline.errors import UserError
from pipeline.record.inspection import DamagedShardError, OtherPlanError, inspect
from tests.pipeline.record_cases import RUN, planned, score_all


@pytest.fixture
def output(tmp_path: Path) -> str:
    output = str(tmp_path)
    score_all(output, planned(output, 6))
    return output


def test_any_damage_gives_one_of_the_known_errors(output: str) -> None:
    """A bit anywhere, or any length: pyarrow raises many kinds of exceptions for these."""
    work = planned(output, 6)
    whole = storage.read_bytes(record.shard_uri(output, RUN, 0))
    dice, found = random.Random(0), 0
    faults = [whole[:length] for length in range(0, len(whole), 97)]
    for _ in range(400):
        place = dice.randrange(len(whole))
        faults.append(
            whole[:place] + bytes([whole[place] ^ 1 << dice.randrange(8)]) + whole[place + 1 :]
        )
    for data in faults:
        try:
            made = inspect(0, data, work.shard(0), work.generations[0].sha256)
        except (DamagedShardError, OtherPlanError):
            found += 1
        else:  # bits that no checksum protects; the hash of the manifest finds them
            assert made.sha256 != last_sha256(output)
    assert found > len(faults) / 2


def last_sha256(output: str) -> str:
    work = planned(output, 6)
    whole = storage.read_bytes(record.shard_uri(output, RUN, 0))
    return inspect(0, whole, work.shard(0), work.generations[0].sha256).sha256


def test_rows_of_another_shard_are_damage_and_those_of_another_plan_are_not(output: str) -> None:
    work = planned(output, 6)
    sha256 = work.generations[0].sha256
    other = storage.read_bytes(record.shard_uri(output, RUN, 1))
    with pytest.raises(DamagedShardError, match="it holds the rows of shard 1"):
        inspect(0, other, work.shard(0), sha256)
    with pytest.raises(OtherPlanError, match="made for another plan"):
        inspect(1, other, work.shard(1), "0" * 64)


@pytest.mark.parametrize("fault", ["cut", "of another shard"])
def test_a_reader_names_a_damaged_shard_and_says_what_to_do(output: str, fault: str) -> None:
    uri = record.shard_uri(output, RUN, 0)
    other = storage.read_bytes(record.shard_uri(output, RUN, 1))
    storage.write_bytes(uri, other if fault == "of another shard" else other[:500])
    with pytest.raises(UserError, match=r"00000000\.parquet: is damaged.*--repair\.$"):
        with record.open_shard(uri) as (file, _, _):
            file.read()


def test_a_table_with_another_name_gets_other_advice(tmp_path: Path) -> None:
    uri = str(tmp_path / "photos.parquet")
    storage.write_bytes(uri, b"no table")
    with pytest.raises(UserError, match="is not a table of a scoring run.*Give the --output"):
        with record.open_shard(uri):
            pass
