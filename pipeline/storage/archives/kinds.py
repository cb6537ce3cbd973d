"""Tells by its name whether an object is an archive, and of which kind."""

from __future__ import annotations

from typing import Literal

from pipeline.errors import UserError
from pipeline.storage.chains import Kind, member_part
from pipeline.storage.uris import without_query

_KINDS: tuple[tuple[str, Kind], ...] = ((".tar", "tar"), (".zip", "zip"), (".parquet", "parquet"))
COMPRESSED = (
    *(".tar" + suffix for suffix in (".gz", ".zst", ".bz2", ".xz", ".lz4")),
    *(".tgz", ".tzst", ".tbz2", ".txz"),
)
"""Suffixes of tars that are compressed as a whole, so that no member can be read alone."""
ARCHIVE_SUFFIXES = (*(suffix for suffix, _ in _KINDS), *COMPRESSED)

Which = Literal["tar", "zip", "parquet", "compressed"]


def archive_kind(uri: str) -> Which | None:
    """Return the kind of an archive by its suffix, in any case; None if the suffix is of no archive."""
    name = without_query(member_part(uri)).lower()
    if name.endswith(COMPRESSED):
        return "compressed"
    return next((kind for suffix, kind in _KINDS if name.endswith(suffix)), None)


def compressed(uri: str) -> UserError:
    """Return the error for a tar that is compressed as a whole."""
    return UserError(
        uri,
        "is compressed as a whole, so reading one image would unpack all before it",
        f"Repack it once: python jobs/pack.py --images '{uri}' --output FOLDER --size 512MB",
    )
