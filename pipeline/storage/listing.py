"""What lies under a URI: a folder, a glob, an object; a list of it, or page by page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from pipeline.errors import ObjectDenied, ObjectMissing, UserError
from pipeline.schema import NAMED
from pipeline.storage.objects import S3_SCHEMES, driver_errors, store_of
from pipeline.storage.retry import DRIVER_DEADLINE_S
from pipeline.storage.uris import (
    Location,
    ObjectInfo,
    compile_pattern,
    is_pattern,
    literal_prefix,
    parse,
)


def list_objects(
    uri: str,
    *,
    suffixes: tuple[str, ...] | None = None,
    missing_ok: bool = False,
    deadline_s: float = DRIVER_DEADLINE_S,
) -> list[ObjectInfo]:
    """The objects that a person means by `uri`, sorted by URI.

    An object of that very name is meant alone (whatever its suffix); else everything under it as a folder,
    recursively; else, where it holds ``*``, ``?`` or ``[``, what it matches as a glob (``**`` crosses
    folders). Folder markers (empty objects whose key ends in a slash) are left out.

    Args:
        uri: an object, a folder or a glob.
        suffixes: lower-case suffixes to keep, compared without regard to case; None keeps all.
        missing_ok: an empty list instead of an error where nothing is there (a missing bucket is still one).

    Raises:
        UserError: nothing there, no such bucket, no access, no answer.
    """
    found = [
        info
        for page in iter_pages(uri, missing_ok=missing_ok, deadline_s=deadline_s)
        for info in page
        if not is_marker(info.uri, info.size)
    ]
    if suffixes is not None and [info.uri for info in found] != [parse(uri).uri]:
        found = [info for info in found if info.uri.lower().endswith(suffixes)]
    return sorted(found, key=lambda info: info.uri)


def iter_pages(
    uri: str,
    *,
    ordered: bool = False,
    missing_ok: bool = False,
    deadline_s: float = DRIVER_DEADLINE_S,
) -> Iterator[list[ObjectInfo]]:
    """What `list_objects` lists and folder markers, a bounded part at a time: for ten million keys.

    Args:
        uri: an object, a folder or a glob.
        ordered: an object store lists by key, with one request at a time; folders of a file system in no
            order all the same.
        missing_ok: nothing instead of an error where nothing is there.

    Raises:
        UserError: as `list_objects`, when the first page is asked for.
    """
    empty = True
    with driver_errors(uri):
        for page in _pages(parse(uri), deadline_s, ordered):
            empty = empty and _only_markers(page)
            yield page
    if empty and not missing_ok:
        location = parse(uri)
        hint = "" if is_pattern(location.path) or location.is_local else f" (or the glob {uri}*)"
        raise UserError(uri, "nothing is there", f"Give a folder, a glob or an object{hint}.")


def is_marker(uri: str, size: int | None) -> bool:
    """Whether an object only stands for a folder: empty, as far as is known, and its key ends in a slash."""
    return not size and uri.endswith("/")


def _only_markers(page: list[ObjectInfo]) -> bool:
    return all(is_marker(info.uri, info.size) for info in page)


def _pages(location: Location, deadline_s: float, ordered: bool) -> Iterator[list[ObjectInfo]]:
    store = store_of(location)
    path = location.path
    if not path.endswith("/") and "/" in path:
        try:
            yield [store.stat(path, deadline_s=deadline_s)]
            return
        except (ObjectMissing, ObjectDenied):  # the right to list may still be there
            pass
    folder = path if path.endswith("/") else path + "/"
    found = False
    for page in store.iter_pages(folder, deadline_s=deadline_s, ordered=ordered):
        found = found or not _only_markers(page)
        yield page
    if found or not is_pattern(path):
        return
    matches = compile_pattern(path).fullmatch
    for page in store.iter_pages(literal_prefix(path), deadline_s=deadline_s, ordered=ordered):
        yield [info for info in page if matches(info.uri.removeprefix(location.root))]


def lists_in_order(uri: str) -> bool:
    """Whether `iter_pages(uri, ordered=True)` goes by key, so that the first are had without the rest."""
    return parse(uri).scheme in S3_SCHEMES


def as_named(objects: Sequence[ObjectInfo]) -> pa.Table:
    """Listed objects as a table NAMED; an object that could not be looked at has neither ETag nor size."""
    return pa.table(
        [
            [info.uri for info in objects],
            [info.etag or None for info in objects],
            [info.size if info.etag else None for info in objects],
        ],
        schema=NAMED,
    )
