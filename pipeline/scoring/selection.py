"""Which images a command names: a prefix, a glob or a list, filtered; of any number."""

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
from pipeline.record.listed import Listed
from pipeline.runtime.progress import Progress
from pipeline.schema import in_tables_of
from pipeline.storage.uris import compile_pattern, is_pattern

logger = logging.getLogger(__name__)

_MARKER, _SUFFIX, _EXCLUDED = "folder markers", "without an image suffix", "filtered out"


@dataclass(frozen=True, kw_only=True, slots=True)
class Filter:
    """Which of the objects under a prefix are images of this job.

    A pattern without a slash is matched against the name of the object, in whatever folder; one with a slash
    against all that follows the prefix (in lists: against the whole URI). ``**`` crosses folders.
    """

    include: tuple[str, ...] = ()
    """Only what matches one of these, whatever its suffix; by default what ends in an image suffix."""
    exclude: tuple[str, ...] = ()
    """Nothing that matches one of these."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """The images a command names, each once."""

    listed: Listed
    num_images: int
    size_bytes: int
    """As far as sizes are known."""
    left_out: Mapping[str, int]
    """Other objects that were listed, by cause."""


def select(images: str, limit: int | None = None, keep: Filter | None = None) -> Selection:
    """List what `images` names; its keys go to this machine's disk, not to memory.

    Args:
        images: a prefix: objects under it whose name ends in an image suffix, whatever the case (the others
        are
            counted, logged, and not images of this job); a glob: every object it matches; a manifest (.txt,
            .csv, .parquet): every URI it names, there or not; the manifest.json of an S3 Inventory: as a
            prefix.
        limit: keep the first so many, in order of their URI.
        keep: filters.

    Raises:
        UserError: the bucket, prefix or manifest is not there, or holds no image.
    """
    left_out: Counter[str] = Counter()
    judge = _judge(images, keep or Filter())
    listed = Listed()
    manifest = is_manifest(images)
    tables = storage.iter_image_list(images) if manifest else _listing(images, limit)
    in_order = limit is not None and not manifest and storage.lists_in_order(images)
    kept = 0
    with Progress("listing", None, "images") as progress:
        for table in tables:
            rows = zip(*(column.to_pylist() for column in table.columns), strict=True)
            causes = [judge(*row) for row in rows]
            left_out.update(cause for cause in causes if cause)
            table = table.filter(pa.array([cause is None for cause in causes], pa.bool_()))
            listed.add(table)
            kept += table.num_rows
            progress.update(kept)
            if in_order and limit is not None and kept >= limit:
                break
    look_up = manifest and not storage.is_inventory(images)
    listed.keep_once(limit, look_up=look_up)
    num_images, size_bytes = listed.size()
    said = ", ".join(f"{count} {cause}" for cause, count in left_out.items())
    if said:
        logger.info("left out: %s", said)
    if not num_images:
        listed.close()
        raise UserError(
            f"--images {images}",
            f"holds no image ({said or 'nothing'})",
            f"Give a prefix with {', '.join(IMAGE_SUFFIXES)} objects, a glob, a manifest or --include.",
        )
    return Selection(
        listed=listed, num_images=num_images, size_bytes=size_bytes, left_out=dict(left_out)
    )


def check_apart(images: str, output: str) -> None:
    """Refuse an output below the images: the next listing would find our own files.

    Raises:
        UserError: it is.
    """
    ours = storage.absolute(storage.join(output, "plans", "000001.json"))
    if is_manifest(images):
        return
    pattern = compile_pattern(storage.absolute(images))
    if ours.startswith(_folder(images)) or pattern.fullmatch(ours):
        raise UserError(
            f"--output {output}",
            f"lies inside --images {images}, so the next run would list its files",
            "Give an output beside the images.",
        )


def is_manifest(images: str) -> bool:
    """Whether `images` names a list and not images."""
    return storage.is_image_list(images) and not is_pattern(images)


def _listing(images: str, limit: int | None) -> Iterator[pa.Table]:
    """Pages put together: a hand-over to the database costs some milliseconds whatever its size."""
    pages = storage.iter_pages(images, ordered=limit is not None)
    return in_tables_of(50_000 if limit is None else 1_000, map(storage.as_named, pages))


def _judge(images: str, keep: Filter) -> Callable[[str, str | None, int | None], str | None]:
    """A function: an object's URI, ETag and size -> why it is left out, None where it is an image of ours."""
    folder = _folder(images)
    wanted, unwanted = ([*map(_compile, globs)] for globs in (keep.include, keep.exclude))
    inventory = storage.is_inventory(images)
    every_name = is_manifest(images) and not inventory

    def judge(uri: str, etag: str | None, size: int | None) -> str | None:
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

    return judge


def _compile(pattern: str) -> tuple[bool, re.Pattern[str]]:
    return "/" in pattern, compile_pattern(pattern)


def _folder(uri: str) -> str:
    return storage.absolute(uri).rstrip("/") + "/"
