"""Archives that are damaged, odd or made to do harm give the right rows, and nothing crashes."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fastrcnn.config import ProposalConfig
from pipeline import storage
from pipeline.errors import MemberUndecodable, StorageError, UserError
from pipeline.proposals.candidate import ReadSettings
from pipeline.proposals.reading import _read
from pipeline.schema import with_shards
from pipeline.scoring.packed import ArchiveOptions
from pipeline.scoring.selection import select
from pipeline.storage.archives.listed import list_archive
from pipeline.storage.archives.reading import Neighbours
from pipeline.storage.chains import split_chain
from tests.pipeline.storage.archives import hostile, odd
from tests.pipeline.storage.archives.hostile import OK, Case

CASES = [*hostile.corpus(), *odd.corpus()]
SETTINGS = ReadSettings(proposals=ProposalConfig(name="grid"))


def test_the_corpus_has_forty_archives() -> None:
    assert len(CASES) >= 40


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.suffix[1:]}: {case.name}")
def test_each_member_is_read_or_says_why_not(case: Case, tmp_path: Path) -> None:
    path = tmp_path / f"x{case.suffix}"
    path.write_bytes(case.data)
    rows = {} if not case.rows else rows_of(path)
    assert rows.keys() == case.rows.keys()
    assert {cause.partition(":")[0] for cause in rows.values()} <= {OK, "undecodable", "too_large"}
    for name, expected in case.rows.items():
        if expected == OK:
            assert rows[name] == OK, (name, rows[name])
        else:
            assert rows[name] != OK
            assert expected in rows[name]
    assert opened(path) == {name for name, cause in rows.items() if cause == OK}


def opened(path: Path) -> set[str]:
    """Read all members by their chained URIs; give the names of the images that can be read."""
    found = set()
    for uri in list_archive(storage.stat(str(path))):
        chain = split_chain(uri)
        if chain is None or not (path.suffix == ".parquet" or chain.name.endswith(".jpg")):
            continue
        try:
            storage.read_bytes(uri)
            found.add(chain.name)
        except StorageError:
            continue
    return found


def rows_of(path: Path) -> dict[str, str]:
    """Read all members as scoring does; give `ok` or the cause by name."""
    # Without the column, a Parquet file that cannot be read could be a list too.
    column = "image" if path.suffix == ".parquet" else None
    selection = select(str(path), archives=ArchiveOptions(image_column=column))
    planned = selection.listed.first(1000)
    selection.listed.close()
    found = {}
    for row in with_shards(planned, pa.array([0] * planned.num_rows, pa.int64())).to_pylist():
        chain = split_chain(row["image_uri"])
        try:
            _read(row, SETTINGS)
            cause = OK
        except StorageError as error:
            cause = f"{error.status}: {error}"
        found[chain.name if chain else ""] = cause
    return found


def test_an_archive_without_images_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(bytes(1024))
    with pytest.raises(UserError, match="holds no image"):
        select(str(path))


def test_a_parquet_file_that_unpacks_to_gigabytes_gives_rows(tmp_path: Path) -> None:
    """A dictionary has one image of 1 MB, and 4,000 rows name it. The file has 50 KB."""
    path = tmp_path / "x.parquet"
    image = pa.array([bytes(2**20)], pa.large_binary())
    same = pa.DictionaryArray.from_arrays(pa.array([0] * 4000, pa.int32()), image)
    pq.write_table(pa.table({"image": same}), path, store_schema=False)
    selection = select(str(path))
    rows = selection.listed.first(100).to_pylist()
    selection.listed.close()
    members = Neighbours(rows, max_bytes=10**8)
    for row in rows:  # of one span, so the row group is unpacked once
        with pytest.raises(MemberUndecodable, match="row group 0"):
            members.read(row)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"a": ["x"]}, "0 columns of bytes.*a \\(string\\)"),
        ({"a": [[b"x"]]}, "0 columns of bytes.*list"),
        ({"a": [{"bytes": {"bytes": b"x"}}]}, "0 columns of bytes"),
        ({"image": [b"x"], "mask": [b"x"]}, "2 columns of bytes"),
    ],
)
def test_a_parquet_file_without_one_column_of_images_is_refused(
    columns: dict[str, list[object]], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table(columns), path)
    (tmp_path / "list.txt").write_text("x.parquet\n")
    with pytest.raises(UserError, match=message):
        select(f"{tmp_path}/list.txt")
    with pytest.raises(UserError, match="no column 'other'"):
        select(str(path), archives=ArchiveOptions(image_column="other"))
