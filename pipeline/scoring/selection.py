"""Selects the images that a command names: by a prefix, a glob or a list, and by filters."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa

from pipeline import storage
from pipeline.errors import UserError
from pipeline.images import IMAGE_SUFFIXES
from pipeline.record.listed import ListedImages
from pipeline.runtime.progress import Progress
from pipeline.schema import in_tables_of
from pipeline.storage.uris import compile_pattern, is_pattern

logger = logging.getLogger(__name__)

_MARKER, _SUFFIX, _EXCLUDED = "folder markers", "without an image suffix", "filtered out"


@dataclass(frozen=True, kw_only=True, slots=True)
class Filter:
    """The patterns that select objects under a prefix.

    A pattern without a slash is matched against the name of the object, in any folder. A pattern with a slash
    is matched against the part of the URI after the prefix (in lists: the whole URI). ``**`` crosses folders.
    """

    include: tuple[str, ...] = ()
    """Keep only objects that match one of these, with any suffix. Empty: keep names with an image suffix."""
    exclude: tuple[str, ...] = ()
    """Leave out objects that match one of these."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """The images that a command names, each once."""

    listed: ListedImages
    num_images: int
    size_bytes: int
    """The sum of the known sizes."""
    left_out: Mapping[str, int]
    """The number of other objects that were listed, by cause."""


def select(images: str, limit: int | None = None, keep: Filter | None = None) -> Selection:
    """List the images that `images` names. The list lies on this machine's disk, not in memory.

    Args:
        images: one of these.
            A prefix: selects the objects under it whose name ends in an image suffix, in any case. The other
            objects are counted and logged.
            A glob: selects every object that it matches.
            A list (.txt, .csv, .parquet): selects every URI in it, even if the object does not exist.
            The manifest.json of an S3 Inventory: is treated as a prefix.
        limit: keep only the first `limit` images, by URI.
        keep: filters.

    Raises:
        UserError: the bucket, prefix or list does not exist, or holds no image.
    """
    left_out: Counter[str] = Counter()
    cause_to_leave_out = _filter_function(images, keep or Filter())
    listed = ListedImages()
    is_list = names_a_list(images)
    tables = storage.iter_image_list(images) if is_list else _listing(images, limit)
    in_order = limit is not None and not is_list and storage.lists_in_order(images)
    kept = 0
    with Progress("listing", None, "images") as progress:
        for table in tables:
            rows = zip(*(column.to_pylist() for column in table.columns), strict=True)
            causes = [cause_to_leave_out(*row) for row in rows]
            left_out.update(cause for cause in causes if cause)
            table = table.filter(pa.array([cause is None for cause in causes], pa.bool_()))
            listed.add(table)
            kept += table.num_rows
            progress.update(kept)
            if in_order and limit is not None and kept >= limit:
                break
    look_up = is_list and not storage.is_inventory(images)
    listed.deduplicate(limit, look_up=look_up)
    num_images, size_bytes = listed.size()
    others = ", ".join(f"{count} {cause}" for cause, count in left_out.items())
    if others:
        logger.info("left out: %s", others)
    if not num_images:
        listed.close()
        raise UserError(
            f"--images {images}",
            f"holds no image ({others or 'it is empty'})",
            f"Give a prefix with {', '.join(IMAGE_SUFFIXES)} objects, a glob, a list or --include.",
        )
    return Selection(
        listed=listed, num_images=num_images, size_bytes=size_bytes, left_out=dict(left_out)
    )


def check_apart(images: str, output: str) -> None:
    """Refuse an output below the images, because the next run would list its files.

    Raises:
        UserError: the output lies below the images.
    """
    plan_uri = storage.absolute(storage.join(output, "plans", "000001.json"))
    if names_a_list(images):
        return
    pattern = compile_pattern(storage.absolute(images))
    if plan_uri.startswith(_folder(images)) or pattern.fullmatch(plan_uri):
        raise UserError(
            f"--output {output}",
            f"lies inside --images {images}, so the next run would list its files",
            "Give an output outside the images.",
        )


def names_a_list(images: str) -> bool:
    """Return whether `images` names a list of images, not the images themselves."""
    return storage.is_image_list(images) and not is_pattern(images)


def _listing(images: str, limit: int | None) -> Iterator[pa.Table]:
    """Yield pages of the listing, joined to larger tables: each insert takes milliseconds at any size."""
    pages = storage.iter_pages(images, ordered=limit is not None)
    return in_tables_of(50_000 if limit is None else 1_000, map(storage.as_named, pages))


def _filter_function(
    images: str, keep: Filter
) -> Callable[[str, str | None, int | None], str | None]:
    """Make a function that takes the URI, ETag and size of an object.

    It returns the cause why the object is left out, or None if the object is selected.
    """
    folder = _folder(images)
    wanted, unwanted = ([*map(_compile, globs)] for globs in (keep.include, keep.exclude))
    inventory = storage.is_inventory(images)
    every_name = names_a_list(images) and not inventory

    def cause_to_leave_out(uri: str, etag: str | None, size: int | None) -> str | None:
        if not every_name and storage.is_marker(uri, size):
            return _MARKER
        path, name = uri.removeprefix(folder), storage.basename(uri)

        def matches(patterns: list[tuple[bool, re.Pattern[str]]]) -> bool:
            return any(p.fullmatch(path if whole else name) for whole, p in patterns)

        if wanted and not matches(wanted):
            return _EXCLUDED
        by_suffix = not wanted and not every_name and (inventory or uri.startswith(folder))
        if by_suffix and not uri.lower().endswith(IMAGE_SUFFIXES):
            return _SUFFIX
        return _EXCLUDED if unwanted and matches(unwanted) else None

    return cause_to_leave_out


def _compile(pattern: str) -> tuple[bool, re.Pattern[str]]:
    return "/" in pattern, compile_pattern(pattern)


def _folder(uri: str) -> str:
    return storage.absolute(uri).rstrip("/") + "/"
