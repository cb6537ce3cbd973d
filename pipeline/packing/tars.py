"""Divides a plan into tars, and makes the bytes of one.

The listed sizes divide a shard of the plan into tars, and names, order and headers depend on nothing else. So
the same plan always gives the same tars.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline import storage
from pipeline.errors import ObjectUnreachable, StorageError, one_line
from pipeline.images.guard import ImageError, sniff
from pipeline.record import plan
from pipeline.runtime.prefetch import REQUESTS_AT_ONCE, prefetch
from pipeline.storage.archives.kinds import archive_kind
from pipeline.storage.archives.reading import Neighbours, is_placed
from pipeline.storage.archives.writing import end_of, header_of, padding, unique_name
from pipeline.storage.chains import split_chain
from pipeline.storage.uris import is_pattern, literal_prefix

UNKNOWN_SIZE = 2**20
"""Bytes that are assumed for an image whose size is not in the list."""
_OLD = ("changed", "missing")
"""Statuses of an old version of an image."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tar:
    """One tar to write."""

    name: str
    rows: list[dict[str, Any]]
    """Its images: rows of the plan."""
    replaced: frozenset[str] = frozenset()
    """URIs of those whose newer version lies in a later tar. They may be gone."""


def iter_tars(
    planned: plan.Plan, tar_bytes: int, replaced: Callable[[pa.Table], list[bool]]
) -> Iterator[Tar]:
    """Divide the shards of a plan into tars, each of at most `tar_bytes` listed bytes or one image.

    Args:
        planned: the plan.
        tar_bytes: --size.
        replaced: returns for each row of the plan whether a later shard has another version of its image.
    """
    for shard in planned.shards_for(None):
        table = planned.shard(shard)
        rows = table.to_pylist()
        is_old = replaced(table) if len(planned.generations) > 1 else [False] * len(rows)
        old = frozenset(row["image_uri"] for row, again in zip(rows, is_old, strict=True) if again)
        for number, part in enumerate(_parts(rows, tar_bytes)):
            yield Tar(name=f"{shard:08d}-{number:04d}.tar", rows=part, replaced=old)


def _parts(rows: list[dict[str, Any]], tar_bytes: int) -> Iterator[list[dict[str, Any]]]:
    part: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        one = row["size_bytes"] if row["size_bytes"] is not None else UNKNOWN_SIZE
        if part and size + one > tar_bytes:
            yield part
            part, size = [], 0
        part.append(row)
        size += one
    if part:
        yield part


def make_tar(
    tar: Tar, root: str, max_bytes: int, left_out: Collection[str] = ()
) -> tuple[bytes, dict[str, str]]:
    """Read the images of a tar. Return its bytes, and URI -> cause of the images that cannot be read.

    Args:
        tar: the tar.
        root: the folder that its names are relative to.
        max_bytes: larger images cannot be read.
        left_out: URIs of images that are not read.

    Raises:
        ObjectUnreachable: the store does not answer. The image may be read later.
    """
    out, failures = io.BytesIO(), dict[str, str]()
    rows = [row for row in tar.rows if row["image_uri"] not in left_out]
    members = Neighbours([row for row in rows if is_placed(row)], max_bytes=max_bytes)

    def read(row: dict[str, Any]) -> tuple[str, bytes | StorageError]:
        try:
            return row["image_uri"], _read(row, members, max_bytes)
        except StorageError as error:
            return row["image_uri"], error

    for uri, data in prefetch(read, rows, threads=REQUESTS_AT_ONCE):
        if isinstance(data, ObjectUnreachable):
            raise data
        if isinstance(data, StorageError):
            if uri not in tar.replaced or data.status not in _OLD:
                failures[uri] = f"{data.status}: {one_line(data)}"
            continue
        out.write(header_of(_name(uri, root, data), len(data)))
        out.write(data)
        out.write(padding(len(data)))
    out.write(end_of(out.tell()))
    return out.getvalue(), failures


def _read(row: dict[str, Any], members: Neighbours, max_bytes: int) -> bytes:
    if is_placed(row):
        return members.read(row)
    return storage.read_bytes(row["image_uri"], etag=row["etag"], max_bytes=max_bytes)


def root_of(images: str) -> str:
    """Return the folder that the names in the tars are relative to; empty for lists."""
    whole = storage.absolute(images)
    if archive_kind(images) == "compressed" and not is_pattern(whole):
        return whole.rpartition("/")[0] + "/"
    if storage.is_image_list(images):
        return ""
    if is_pattern(whole):
        return literal_prefix(whole).rpartition("/")[0] + "/"
    return whole.rstrip("/") + "/"


def _name(uri: str, root: str, data: bytes) -> bytes:
    """Return the name of an image in a tar. A row of a Parquet file gets a suffix by its content."""
    name, chain = unique_name(uri, root), split_chain(uri)
    if chain is None or chain.kind != "parquet":
        return name
    try:
        return name + b"." + sniff(data).lower().encode()
    except ImageError:
        return name + b".jpg"  # its row will say what is wrong
