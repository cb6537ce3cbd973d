"""Reads lists of images: files of URIs, folders and globs of them, or an S3 Inventory. A list may have any
length.

`list_formats` reads the files. This module finds them and makes the URIs of their entries absolute.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
from collections.abc import Iterator

import pyarrow as pa

from pipeline.errors import ObjectMissing, StorageError, UserError
from pipeline.schema import NAMED
from pipeline.storage.access import SCHEMES, WEB, links
from pipeline.storage.chains import PACKED
from pipeline.storage.inventory import INVENTORY, iter_inventory
from pipeline.storage.list_formats import (
    LIST_SUFFIXES,
    ROWS_AT_ONCE,
    ListOptions,
    Source,
    iter_entries,
)
from pipeline.storage.listing import list_objects
from pipeline.storage.objects import driver_errors, local_copy, stat
from pipeline.storage.other import NoDriver, filesystem
from pipeline.storage.retry import DEADLINE_S
from pipeline.storage.stores import STORES, check_access
from pipeline.storage.uris import (
    LOCAL,
    absolute,
    basename,
    literal_prefix,
    parse,
    scheme_of,
    without_query,
)

logger = logging.getLogger(__name__)

BY_SUFFIX = ListOptions()
"""Reads a list by its suffix, and allows all that it names."""
_CLOUD = ("gs", "gcs", "az", "abfs", "abfss")
_ABSOLUTE = ("/", "localhost/")
"""What a ``file://`` URI of a whole path goes on with."""
_UPWARDS = re.compile(r"(\./|\.\./)+")


def is_image_list(uri: str, options: ListOptions = BY_SUFFIX) -> bool:
    """Whether the name is that of a list of images, or a folder or glob of lists, and not of images."""
    return (
        options.format != "auto"
        or without_query(uri).lower().rstrip("/").endswith(LIST_SUFFIXES)
        or is_inventory(uri)
    )


def is_inventory(uri: str) -> bool:
    """Whether the name is that of an S3 Inventory's manifest.json."""
    return basename(without_query(uri)) == INVENTORY


def iter_image_list(uri: str, options: ListOptions = BY_SUFFIX) -> Iterator[pa.Table]:
    """Yield the images of a list, in its order, as tables NAMED. An image may occur several times.

    ``.txt``: one URI a line, byte for byte. ``.csv``, ``.tsv``, ``.jsonl``, ``.parquet``: the columns are
    found by their names, see `list_columns`. All but Parquet may be compressed (``.gz``). ``manifest.json``:
    see `inventory`. A folder whose name has such a suffix, and a glob, mean all lists in them.

    Relative entries are relative to the list, or to `options.root`.

    Args:
        uri: the list.
        options: how to read it.

    Raises:
        UserError: the list does not exist, cannot be read as the kind that its suffix names, has an entry
            that may not be read, or has no URI.
    """
    empty = True
    with driver_errors(uri):
        check_access(uri, options.access)
        if is_inventory(uri) and options.format == "auto":
            tables = iter_inventory(uri, options.access)
        else:
            tables = (table for file in _files(uri, options) for table in _tables(file, options))
        for table in tables:
            empty = empty and not table.num_rows
            yield table
    if empty:
        raise UserError(uri, "names no image", "Write at least one URI into it.")


def _files(uri: str, options: ListOptions) -> list[str]:
    """Return the files of a list: itself, or the lists in a folder or that a glob matches, by URI.

    Names that begin with ``_`` or ``.`` are left out: other programs write them beside their tables.
    """
    location = parse(uri)
    if location.scheme in WEB:
        return [uri]
    files = [info.uri for info in list_objects(uri, missing_ok=True)]
    if files == [location.uri]:
        return files
    start = location.uri + "/"
    if not all(file.startswith(start) for file in files):
        start = location.root + literal_prefix(location.path).rpartition("/")[0]
    inside = {file: file.removeprefix(start).split("/") for file in files}
    if any("_delta_log" in parts for parts in inside.values()):
        raise UserError(
            uri,
            "is a Delta table",
            "Its folder may hold rows that were deleted. Export it as Parquet.",
        )
    kept = [
        file
        for file, parts in inside.items()
        if not any(part.startswith(("_", ".")) for part in parts)
        and (options.format != "auto" or file.lower().endswith(LIST_SUFFIXES))
    ]
    if not files:
        raise ObjectMissing(f"{uri}: no such list, folder or match")
    if not kept:
        raise UserError(uri, "holds no list", f"Expected files {', '.join(LIST_SUFFIXES)}.")
    logger.info("%s: %d lists; %d other objects", uri, len(kept), len(files) - len(kept))
    return kept


def _tables(uri: str, options: ListOptions) -> Iterator[pa.Table]:
    source = Source(uri=uri, options=options)
    resolve = _Resolver(source).resolve
    named = unnamed = 0
    with local_copy(uri, access=options.access) as path:
        entries = iter_entries(path, source)
        while chunk := list(itertools.islice(entries, ROWS_AT_ONCE)):
            kept = [entry for entry in chunk if entry[1]]
            uris = [resolve(entry, place) for place, entry, _, _ in kept]
            named, unnamed = named + len(kept), unnamed + len(chunk) - len(kept)
            columns = [uris, [etag for _, _, etag, _ in kept], [size for _, _, _, size in kept]]
            try:
                yield pa.table(columns, schema=NAMED)
            except UnicodeEncodeError as error:  # JSON can spell half a character
                raise source.wrong(
                    kept[0][0], f"or a later one names {error.object!r}", "Write whole characters."
                ) from error
    if unnamed:
        logger.warning("%s: %d rows name no image, %d do", uri, unnamed, named)


def list_folder(uri: str) -> str:
    """Return the folder that the entries of a list are relative to.

    It is the folder of the list. A folder such as ``list.parquet/``, with or without partitions
    (``day=1/``) in it, is one list.
    """
    location = parse(without_query(uri))
    folder = table = location.path.rpartition("/")[0]
    while "=" in basename(table):
        table = table.rpartition("/")[0]
    if basename(table).lower().endswith(LIST_SUFFIXES):
        folder = table.rpartition("/")[0]
    return location.root + (folder or "/" * location.is_local)


class _Resolver:
    """Makes the URIs of a list's entries absolute, and refuses those that a list may not name."""

    def __init__(self, source: Source) -> None:
        options = source.options
        self._source = source
        self._is_remote = not parse(source.uri).is_local
        self._base = parse(list_folder(source.uri) if options.root is None else options.root)
        self._fine: set[str] = set()
        """Schemes that were checked."""
        self._is_first = options.root is None
        """Whether the next relative entry is the first whose meaning could be in doubt."""

    def resolve(self, entry: str, place: int) -> str:
        """Make one entry absolute.

        A space before "s3://" is not part of the key, but a space at the end may be. A leading `~` is part
        of a file name, because no shell has expanded the list.
        """
        scheme = scheme_of(entry.lstrip()) if "://" in entry else ""
        if scheme or entry.startswith("/"):
            uri = entry.lstrip()
            path = uri.partition("://")[2]
            if scheme in LOCAL and not self._is_remote and not path.startswith(_ABSOLUTE):
                return self._relative(path, place)
            if scheme not in self._fine or scheme in PACKED:
                self._check(uri, place)
            return absolute(uri)
        uri = self._relative(entry, place)
        if self._is_first:
            self._is_first = False
            self._check_meaning(entry, uri, place)
        return uri

    def _check(self, uri: str, place: int) -> None:
        """Refuse a URI that this list may not name.

        A scheme that nothing reads is only logged: the rows of its images say so.
        """
        for link in links(uri):
            scheme = scheme_of(link)
            if scheme in self._fine:
                continue
            if self._is_remote and scheme in ("", *LOCAL):
                raise self._source.wrong(
                    place,
                    f"names the local path {link}",
                    "A list in a store may name only objects in stores. Copy the list to this machine.",
                )
            if scheme == "http" and not self._source.options.access.http:
                raise self._source.wrong(
                    place, f"names {link}, which is not encrypted", "Use https, or --allow-http."
                )
            if scheme in _CLOUD:
                try:
                    filesystem(scheme)
                except NoDriver as error:  # its package is not installed
                    _, why, advice = error.args
                    raise self._source.wrong(place, f"names {link}, which {why}", advice) from error
            elif scheme and scheme not in (*SCHEMES, *PACKED, *STORES):
                logger.warning("%s, line %d: nothing here reads %s", self._source.uri, place, link)
            self._fine.add(scheme)

    def _relative(self, entry: str, place: int) -> str:
        root, folder = self._base.root, self._base.path.rstrip("/")
        if self._base.is_local:
            path = os.path.normpath(f"{folder}/{entry}")
            if self._is_remote and not path.startswith(f"{folder}/"):
                raise self._outside(entry, place)
            return root + path
        if upwards := _UPWARDS.match(entry):
            entry = entry[upwards.end() :]
            parts = folder.split("/")
            kept = len(parts) - upwards[0].count("../")
            if kept < 1:  # the first part is the bucket or the host
                raise self._outside(upwards[0] + entry, place)
            folder = "/".join(parts[:kept])
        return f"{root}{folder}/{entry}"

    def _outside(self, entry: str, place: int) -> UserError:
        return self._source.wrong(
            place, f"names {entry}, outside {self._base.uri}", "Write its whole URI."
        )

    def _check_meaning(self, entry: str, uri: str, place: int) -> None:
        """Refuse a list whose first relative entry exists only relative to the working directory.

        Up to version 0.1.0, entries were relative to that.
        """
        here = os.path.abspath(entry)
        if here == uri or not os.path.exists(here):
            return
        try:
            stat(uri, deadline_s=DEADLINE_S, access=self._source.options.access)
        except ObjectMissing as error:
            raise self._source.wrong(
                place,
                f"names {entry}: relative to the list that is {uri}, which does not exist; relative to the "
                f"working directory it is {here}, which exists",
                "Give --list-root . for the second, or change the list.",
            ) from error
        except StorageError:
            return  # the rows of the images will say why
