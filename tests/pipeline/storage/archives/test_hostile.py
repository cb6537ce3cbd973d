"""Archives that are damaged, odd or made to do harm give the right rows, and nothing crashes."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from fastrcnn.config import ProposalConfig
from pipeline.errors import StorageError, UserError
from pipeline.proposals.reading import ReadSettings, _read
from pipeline.schema import with_shards
from pipeline.scoring.packed import ArchiveOptions
from pipeline.scoring.selection import select
from pipeline.storage.chains import split_chain
from tests.pipeline.storage.archives.hostile import OK, Case, corpus

SETTINGS = ReadSettings(proposals=ProposalConfig(name="grid"))


def test_the_corpus_has_forty_archives() -> None:
    assert len(corpus()) >= 40


@pytest.mark.parametrize("case", corpus(), ids=lambda case: f"{case.suffix[1:]}: {case.name}")
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
