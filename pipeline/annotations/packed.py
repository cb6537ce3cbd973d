"""Lists data sets that are packed: folders in tars and zips, WebDataset tars, Parquet files of Hugging Face.

The members of an archive become the files of the data set, so that each label format reads them as if they
were unpacked. Several archives in one folder are one data set, as COCO's zips of images and annotations are.
A Parquet file becomes a folder whose files are its rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from pipeline.errors import UserError
from pipeline.storage import ObjectInfo, driver_errors, list_objects
from pipeline.storage.archives.kinds import archive_kind, compressed
from pipeline.storage.archives.listed import list_archive
from pipeline.storage.chains import member_name, split_chain

_NOTES = re.compile(
    r"(?:read.?me|licen[cs]e|notice|citation|\.)[^/]*|[^/]*\.(?:md|pdf|html?|json|sh|py|ipynb)",
    re.IGNORECASE,
)
"""Files that may lie beside archives."""


def packed_files(uri: str) -> dict[str, ObjectInfo] | None:
    """Return path -> member of the archives that a data set consists of; None if it is a folder of files.

    Args:
        uri: an archive, or a folder with nothing but archives and notes.

    Raises:
        UserError: an archive is damaged, compressed as a whole, or two have a file of one name.
    """
    found = list_objects(uri.rstrip("/"), missing_ok=True)
    archives = [info for info in found if archive_kind(info.uri) is not None]
    others = [info for info in found if archive_kind(info.uri) is None]
    if not archives or not all(_NOTES.fullmatch(info.uri.rpartition("/")[2]) for info in others):
        return None
    named = [info.uri for info in found] == [uri.rstrip("/")]
    if not named and any(archive_kind(info.uri) == "compressed" for info in archives):
        return None  # the message about an unknown layout says what to do
    paths = _paths([info.uri for info in archives], uri.rstrip("/"))
    files: dict[str, ObjectInfo] = {}
    for archive, place in zip(archives, paths, strict=True):
        if archive_kind(archive.uri) == "compressed":
            raise compressed(archive.uri)
        members = _members(archive, place, strict=named or len(archives) > 1)
        for path, info in members:
            if path in files:
                raise UserError(
                    info.uri, f"has the name of {files[path].uri}", "Give one data set at a time."
                )
            files[path] = info
        if archive_kind(archive.uri) == "parquet":
            files[place] = archive
    return files or None


def _paths(uris: list[str], folder: str) -> list[str]:
    """Return the paths of archives: their names, or if two are equal, their paths below the folder."""
    names = [uri.rpartition("/")[2] for uri in uris]
    if len(set(names)) == len(names):
        return names
    return [uri.removeprefix(folder).lstrip("/") for uri in uris]


def _members(archive: ObjectInfo, place: str, *, strict: bool) -> Iterable[tuple[str, ObjectInfo]]:
    """Yield path and object of each member that can be read. The rows of a Parquet file lie below `place`."""
    with driver_errors(archive.uri):
        found = list_archive(archive)
    kind = archive_kind(archive.uri)
    folder = f"{place}/" if kind == "parquet" else ""
    if (damage := found.get(archive.uri)) is not None:
        if not strict:
            return
        raise UserError(archive.uri, str(damage["problem"]).partition(": ")[2], "Write it again.")
    for uri, size, problem in found.described():
        chain = split_chain(uri)
        if chain is None or problem:
            continue
        name = member_name(chain.name).decode("utf-8", "replace")
        if kind == "zip":  # Windows' Compress-Archive wrote these; unzip reads them so too
            name = name.replace("\\", "/")
        yield folder + name.removeprefix("./").lstrip("/"), ObjectInfo(uri, archive.etag, size)
