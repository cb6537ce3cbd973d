"""Selects the images that a command names: by a prefix, a glob or a list, and by filters."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import pyarrow as pa

from pipeline import storage
from pipeline.errors import UserError
from pipeline.images import IMAGE_SUFFIXES
from pipeline.record.listed import ListedImages
from pipeline.runtime.progress import Progress
from pipeline.schema import in_tables_of
from pipeline.scoring.filters import (
    ARCHIVE,
    EXCLUDED,
    SUFFIX,
    Filter,
    filter_function,
    folder_of,
    naming_function,
    opening_function,
)
from pipeline.scoring.packed import (
    ONLY_NAMED,
    ArchiveOptions,
    LeaveOut,
    NamedArchives,
    chained_archives,
    is_packed,
)
from pipeline.storage import Access, ListOptions
from pipeline.storage.archives.kinds import archive_kind
from pipeline.storage.chains import Chain, member_part, split_chain
from pipeline.storage.uris import compile_pattern, is_pattern

logger = logging.getLogger(__name__)

READ_LISTS = ListOptions(image_suffixes=IMAGE_SUFFIXES)
"""Reads a list by its suffix, and allows all that it names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """The images that a command names, each once."""

    listed: ListedImages
    num_images: int
    size_bytes: int
    """The sum of the known sizes."""
    left_out: Mapping[str, int]
    """The number of other objects that were listed, by cause."""
    access: Access = storage.OPEN
    """What may be read when the images are read."""


def select(
    images: str,
    limit: int | None = None,
    keep: Filter | None = None,
    lists: ListOptions = READ_LISTS,
    archives: ArchiveOptions = ONLY_NAMED,
) -> Selection:
    """List the images that `images` names. The list lies on this machine's disk, not in memory.

    Args:
        images: one of these.
            A prefix: selects the objects under it whose name ends in an image suffix, in any case. The other
            objects are counted and logged, archives too unless `archives` opens them.
            A glob: selects every object that it matches, and the images in every archive that it matches.
            A list (`storage.LIST_SUFFIXES`), a folder or a glob of lists: selects every URI in it, even if
            the object does not exist, and the images in archives that it names.
            An archive, or a chained URI, whose parts may be globs.
            The manifest.json of an S3 Inventory: is treated as a prefix.
        limit: keep only the first `limit` images, by URI, those of archives by their place.
        keep: filters. They are applied to the names of members too.
        lists: how to read lists, and what may be read. The scheme of `images` itself is not limited.
        archives: which archives are opened.

    Raises:
        UserError: the bucket, prefix or list does not exist, or holds no image; or an archive cannot be
            opened as a whole, such as a compressed tar.
    """
    keep = keep or Filter()
    chain = split_chain(images)
    is_list = chain is None and storage.is_image_list(images, lists)
    is_list = is_list and not is_packed(images, lists, archives)
    if chain is not None:
        listing = _read_chain(chain, limit, keep, lists, archives)
    elif is_list:
        listing = _read_list(images, limit, keep, lists, archives)
    else:
        listing = _list(images, limit, keep, lists, archives)
    if listing.only_lists:
        logger.info("--images %s holds only lists of images, so these are read", images)
        listing.listed.close()
        is_list, listing = True, _read_list(images, limit, keep, lists, archives)
    listed, left_out = listing.listed, listing.left_out
    access = lists.access if is_list else replace(lists.access, any_scheme=True)
    look_up = is_list and not storage.is_inventory(images)
    listed.deduplicate(limit, look_up=look_up, access=access)
    num_images, size_bytes = listed.size()
    left_out_text = ", ".join(f"{count} {cause}" for cause, count in left_out.items())
    if left_out_text:
        logger.info("left out: %s", left_out_text)
    if not num_images:
        listed.close()
        raise UserError(
            f"--images {images}",
            f"holds no image ({left_out_text or 'it is empty'})",
            f"Give a prefix with {', '.join(IMAGE_SUFFIXES)} objects, a glob, a list or --include. "
            f"Lists are {', '.join(storage.LIST_SUFFIXES)}.",
        )
    return Selection(
        listed=listed,
        num_images=num_images,
        size_bytes=size_bytes,
        left_out=dict(left_out),
        access=access,
    )


@dataclass(frozen=True, slots=True)
class _Listing:
    """What a command names, not yet deduplicated."""

    listed: ListedImages
    left_out: Counter[str]
    only_lists: bool = False
    """Whether all that was listed are lists of images."""


def _read_list(
    images: str, limit: int | None, keep: Filter, lists: ListOptions, archives: ArchiveOptions
) -> _Listing:
    leave_out = filter_function(images, keep, is_list=True)
    named = NamedArchives()
    tables = (_without_archives(table, named) for table in storage.iter_image_list(images, lists))
    listing = _add_all(tables, leave_out, most=None)
    of_members = filter_function(images, keep, is_list=False)
    return _add_members(listing, named, of_members, limit, lists.access, archives)


def _read_chain(
    chain: Chain, limit: int | None, keep: Filter, lists: ListOptions, archives: ArchiveOptions
) -> _Listing:
    """Read the members that a chained URI names, with any suffix."""
    access = replace(lists.access, any_scheme=True)
    named, is_named = chained_archives(chain, access)
    cause = filter_function(chain.uri, keep, is_list=True)

    def leave_out(uri: str, etag: str | None, size: int | None) -> str | None:
        return cause(uri, etag, size) if is_named(member_part(uri)) else EXCLUDED

    listing = _Listing(ListedImages(), Counter())
    return _add_members(listing, named, leave_out, limit, access, archives)


def _without_archives(table: pa.Table, named: NamedArchives) -> pa.Table:
    """Note the archives of a table (NAMED), and return its other rows."""
    rows = zip(*(column.to_pylist() for column in table.columns), strict=True)
    opened = [named.take(*row) for row in rows]
    return table.filter(pa.array([not one for one in opened], pa.bool_())) if any(opened) else table


def _list(
    images: str, limit: int | None, keep: Filter, lists: ListOptions, archives: ArchiveOptions
) -> _Listing:
    """List a prefix or a glob, and notice whether there are only lists of images.

    In a folder, texts are no lists: they are notes more often.
    """
    suffixes = storage.LIST_SUFFIXES
    if not is_pattern(images):
        suffixes = tuple(suffix for suffix in suffixes if not suffix.startswith(".txt"))
    num_lists = num_others = 0
    access = replace(lists.access, any_scheme=True)
    named, left_out = NamedArchives(), Counter[str]()
    is_opened = opening_function(images, keep, archives)

    def pages() -> Iterator[pa.Table]:
        nonlocal num_lists, num_others
        for table in _listing(images, limit, access):
            if not num_others:
                uris = table["image_uri"].to_pylist()
                names = [
                    name for name in map(storage.basename, uris) if name and name[0] not in "._"
                ]
                found = sum(name.lower().endswith(suffixes) for name in names)
                num_lists, num_others = num_lists + found, num_others + len(names) - found
            yield _apart(table, is_opened, named, left_out)

    in_order = limit is not None and storage.lists_in_order(images)
    leave_out = filter_function(images, keep, is_list=False)
    listing = _add_all(pages(), leave_out, most=limit if in_order else None)
    listing.left_out.update(left_out)
    if num_lists and not num_others and not keep.include and not named.whole:
        return replace(listing, only_lists=True)
    of_members = leave_out
    includes_archive = naming_function(images, keep.include)
    if not archives.open_all and any(map(includes_archive, named.whole)):
        # --include named the archives, not the members.
        of_members = filter_function(images, replace(keep, include=()), is_list=False)
    return _add_members(listing, named, of_members, limit, access, archives)


def _apart(
    table: pa.Table,
    is_opened: Callable[[str], bool],
    named: NamedArchives,
    left_out: Counter[str],
) -> pa.Table:
    """Take the archives out of a table (NAMED): note those that are opened, and count the others."""
    kept = []
    for uri, etag, size in zip(*(column.to_pylist() for column in table.columns), strict=True):
        kept.append(archive_kind(uri) is None)
        if kept[-1]:
            continue
        if is_opened(uri):
            named.take(uri, etag, size)
        else:
            left_out[ARCHIVE] += 1
    return table if all(kept) else table.filter(pa.array(kept, pa.bool_()))


def _add_members(
    listing: _Listing,
    named: NamedArchives,
    leave_out: LeaveOut,
    limit: int | None,
    access: Access,
    archives: ArchiveOptions,
) -> _Listing:
    """List the members of archives, and add those that are not left out."""
    if not named.whole and not named.asked:
        return listing
    kept = 0
    num_archives = len(named.whole) + len(named.asked)
    with Progress(f"listing {num_archives} archives", None, "members") as progress:
        for table, wanted in named.members(archives, access, limit):
            if wanted:
                table = _kept(table, leave_out, listing.left_out, members=True)
            listing.listed.add_members(table, wanted=wanted)
            kept += table.num_rows
            progress.update(kept)
            if limit is not None and wanted and kept >= limit:
                break
    return listing


def _add_all(tables: Iterator[pa.Table], leave_out: LeaveOut, most: int | None) -> _Listing:
    """Add the images that are not left out; stop after `most`."""
    listed = ListedImages()
    left_out: Counter[str] = Counter()
    kept = 0
    with Progress("listing", None, "images") as progress:
        for table in tables:
            table = _kept(table, leave_out, left_out)
            listed.add(table)
            kept += table.num_rows
            progress.update(kept)
            if most is not None and kept >= most:
                break
    return _Listing(listed, left_out)


def _kept(
    table: pa.Table, leave_out: LeaveOut, left_out: Counter[str], *, members: bool = False
) -> pa.Table:
    """Return the rows that are not left out, and count the others.

    Of `members` (MEMBERS), the row of a damaged archive and an archive inside an archive stay.
    """
    columns = (table[name].to_pylist() for name in ("image_uri", "etag", "size_bytes"))
    causes = [leave_out(*row) for row in zip(*columns, strict=True)]
    if members:
        uris, problems = table["image_uri"].to_pylist(), table["problem"].to_pylist()
        causes = [_of_member(*row) for row in zip(uris, problems, causes, strict=True)]
    left_out.update(cause for cause in causes if cause)
    return table.filter(pa.array([cause is None for cause in causes], pa.bool_()))


def _of_member(uri: str, problem: str | None, cause: str | None) -> str | None:
    """Return the cause why a row of an archive is left out; None if it stays."""
    if split_chain(uri) is None:  # the archive: it is damaged, or it cannot be read
        return None
    return None if cause == SUFFIX and problem and archive_kind(uri) else cause


SCORED_FILES = ("plans/000001.json", f"scored/{'0' * 16}/000000.parquet")
"""Files of the output of a scoring run."""


def check_output_outside(images: str, output: str, files: tuple[str, ...] = SCORED_FILES) -> None:
    """Refuse an output below the images, because the next run would list its files.

    Args:
        images: --images.
        output: --output.
        files: examples of the files that the job writes below the output.

    Raises:
        UserError: the output lies below the images, or a glob of images or lists matches its files.
    """
    uris = [storage.absolute(storage.join(output, *name.split("/"))) for name in files]
    pattern = compile_pattern(storage.absolute(images))
    if any(uri.startswith(folder_of(images)) or pattern.fullmatch(uri) for uri in uris):
        raise UserError(
            f"--output {output}",
            f"lies inside --images {images}, so the next run would list its files",
            "Give an output outside the images.",
        )


def _listing(images: str, limit: int | None, access: Access) -> Iterator[pa.Table]:
    """Yield pages of the listing, joined to larger tables: each insert takes milliseconds at any size."""
    pages = storage.iter_pages(images, ordered=limit is not None, access=access)
    return in_tables_of(50_000 if limit is None else 1_000, map(storage.as_named, pages))
