"""Lists the objects under a URI, which names a folder, a glob or an object; as one list or page by page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from pipeline.errors import ObjectDenied, ObjectMissing, UserError
from pipeline.schema import NAMED
from pipeline.storage.access import OPEN, WEB, Access
from pipeline.storage.objects import driver_errors
from pipeline.storage.retry import DEADLINE_S
from pipeline.storage.stores import check_access, store_of
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
    deadline_s: float = DEADLINE_S,
) -> list[ObjectInfo]:
    """List the objects that `uri` names, sorted by URI.

    If an object has exactly this name, the result is this object, with any suffix. Else `uri` is a folder,
    and the result is everything under it, recursively. If the folder is empty and `uri` holds ``*``, ``?``
    or ``[``, it is a glob (``**`` crosses folders). Folder markers (empty objects whose key ends in a slash)
    are left out.

    Args:
        uri: an object, a folder or a glob.
        suffixes: lower-case suffixes to keep, compared without regard to case; None keeps all.
        missing_ok: return an empty list instead of an error if there is no object. A missing bucket is an
            error all the same.
        deadline_s: no attempt at a request starts later than this after the first, in seconds.

    Raises:
        UserError: no object, no such bucket, no access, or no answer.
    """
    objects = [
        info
        for page in iter_pages(uri, missing_ok=missing_ok, deadline_s=deadline_s)
        for info in page
        if not is_marker(info.uri, info.size)
    ]
    if suffixes is not None and [info.uri for info in objects] != [parse(uri).uri]:
        objects = [info for info in objects if info.uri.lower().endswith(suffixes)]
    return sorted(objects, key=lambda info: info.uri)


def iter_pages(
    uri: str,
    *,
    ordered: bool = False,
    missing_ok: bool = False,
    deadline_s: float = DEADLINE_S,
    access: Access = OPEN,
) -> Iterator[list[ObjectInfo]]:
    """Yield the objects of `list_objects`, and folder markers, page by page; for millions of keys.

    A page has a bounded size.

    Args:
        uri: an object, a folder or a glob.
        ordered: list an object store in the order of its keys, with one request at a time. The folders of a
            file system have no order in any case.
        missing_ok: yield nothing instead of an error if there is no object.
        deadline_s: as in `list_objects`, for each page.
        access: what may be read.

    Raises:
        UserError: as in `list_objects`, when the first page is requested.
    """
    empty = True
    with driver_errors(uri):
        check_access(uri, access)
        for page in _pages(parse(uri), deadline_s, ordered, access):
            empty = empty and _only_markers(page)
            yield page
    if empty and not missing_ok:
        location = parse(uri)
        hint = "" if is_pattern(location.path) or location.is_local else f" (or the glob {uri}*)"
        raise UserError(uri, "names no object", f"Give a folder, a glob or an object{hint}.")


def list_prefix(uri: str) -> list[ObjectInfo]:
    """List the objects whose URI starts with this text, in which nothing is a pattern. There may be none.

    Raises:
        StorageError: no access, or no answer.
    """
    location = parse(uri)
    pages = store_of(location).iter_pages(location.path, deadline_s=DEADLINE_S)
    return [info for page in pages for info in page]


def is_marker(uri: str, size: int | None) -> bool:
    """Whether an object only marks a folder: its key ends in a slash, and its size is 0 or unknown."""
    return not size and uri.endswith("/")


def _only_markers(page: list[ObjectInfo]) -> bool:
    return all(is_marker(info.uri, info.size) for info in page)


def _pages(
    location: Location, deadline_s: float, ordered: bool, access: Access
) -> Iterator[list[ObjectInfo]]:
    store = store_of(location, access)
    path = location.path
    if not path.endswith("/") and "/" in path:
        try:
            yield [store.stat(path, deadline_s=deadline_s)]
            return
        except ObjectMissing:
            pass
        except ObjectDenied:
            if location.scheme in WEB:
                raise
            # Listing may be allowed although reading is not.
    folder = path if path.endswith("/") else path + "/"
    has_objects = False
    for page in store.iter_pages(folder, deadline_s=deadline_s, ordered=ordered):
        has_objects = has_objects or not _only_markers(page)
        yield page
    if has_objects or not is_pattern(path):
        return
    matches = compile_pattern(path).fullmatch
    for page in store.iter_pages(literal_prefix(path), deadline_s=deadline_s, ordered=ordered):
        yield [info for info in page if matches(info.uri.removeprefix(location.root))]


def lists_in_order(uri: str) -> bool:
    """Whether `iter_pages(uri, ordered=True)` yields the keys in order, so the first need not the rest."""
    return store_of(parse(uri)).lists_in_order


def as_named(objects: Sequence[ObjectInfo]) -> pa.Table:
    """Make a table NAMED of listed objects. An object that has vanished since has null for ETag and size."""
    return pa.table(
        [
            [info.uri for info in objects],
            [info.etag or None for info in objects],
            [info.size if info.etag else None for info in objects],
        ],
        schema=NAMED,
    )
