"""Packs many small images into tars, so that neighbours are read by one request.

    <output>/plans/                          which images, as in a scoring run; never changed
    <output>/tars/<shard>-<number>.tar       each created once, whole
    <output>/left_out/<shard>-<number>.json  images that could not be read, with the cause (--max-failures)

The plan divides the images into shards, and the listed sizes divide a shard into tars. So the same plan
always gives the same tars, byte for byte: names, order and headers depend on nothing else. A tar that exists
is done; the same command continues with the others, and two drivers cannot write one tar twice.
"""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from pipeline import storage
from pipeline.config.pack import PackConfig
from pipeline.errors import JobError, StorageError, one_line
from pipeline.images.guard import ImageError, sniff
from pipeline.record import plan
from pipeline.runtime.prefetch import prefetch
from pipeline.runtime.progress import Progress
from pipeline.scoring.filters import Filter
from pipeline.scoring.packed import ArchiveOptions
from pipeline.scoring.selection import Selection, check_output_outside, select
from pipeline.storage import ListOptions
from pipeline.storage.archives.kinds import archive_kind
from pipeline.storage.archives.problems import DamagedArchiveError
from pipeline.storage.archives.reading import Neighbours, is_placed
from pipeline.storage.archives.tar import TarKind
from pipeline.storage.archives.unpacking import unpacked
from pipeline.storage.archives.writing import end_of, header_of, padding, unique_name
from pipeline.storage.chains import split_chain
from pipeline.storage.uris import is_pattern, literal_prefix

logger = logging.getLogger(__name__)

_TARS_A_SHARD = 8
"""Tars of a shard of the plan, on average: the last one of a shard is smaller."""
_MOST_ROWS = 100_000
_UNKNOWN_SIZE = 2**20
_TARS_AT_ONCE = 2
"""Each is in memory until it is written."""
_READS_AT_ONCE = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Tar:
    """One tar to write."""

    name: str
    rows: list[dict[str, Any]]
    """Its images: rows of the plan."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Packed:
    """What became of one tar."""

    name: str
    num_images: int
    failures: dict[str, str]
    """URI -> cause, of images that could not be read."""


def run(config: PackConfig) -> None:
    """Write every tar that does not exist yet.

    Raises:
        UserError: the images or the output cannot be used.
        JobError: images cannot be read. Whole tars stay written, and the same command continues.
    """
    storage.check_writable(config.output)
    check_output_outside(config.images, config.output)
    if compressed := _compressed_tars(config.images):
        _repack_all(config, compressed)
        return
    keep = Filter(include=config.include, exclude=config.exclude)
    archives = ArchiveOptions(open_all=config.archives)
    selection = select(config.images, None, keep, ListOptions(), archives)
    with closing(selection.listed):
        _run(config, selection)


def _run(config: PackConfig, selection: Selection) -> None:
    mean = max(1, selection.size_bytes // selection.num_images) or _UNKNOWN_SIZE
    shard_size = max(1, min(_MOST_ROWS, _TARS_A_SHARD * config.tar_bytes // mean))
    logger.info(
        "%d images, %.1f MB: about %d tars",
        selection.num_images,
        selection.size_bytes / 1e6,
        -(-selection.size_bytes // config.tar_bytes),
    )
    if config.dry_run:
        return
    storage.check_exclusive_create(config.output)
    planned = plan.extend(config.output, selection.listed, shard_size=shard_size)
    folder = storage.join(config.output, "tars")
    done = {storage.basename(i.uri) for i in storage.list_objects(folder, missing_ok=True)}
    failures: dict[str, str] = {}
    root = root_of(config.images)
    with Progress("packing", planned.num_images, "images") as progress:
        packed = 0
        tars = iter_tars(planned, config.tar_bytes)
        todo = (tar for tar in tars if tar.name not in done)
        write = _writer(config, root)
        for result in prefetch(write, todo, threads=_TARS_AT_ONCE, waiting=_TARS_AT_ONCE):
            failures |= result.failures
            packed += result.num_images
            progress.update(packed)
            _check_failures(failures, planned.num_images, config.max_failures)
    logger.info("packed %d images; %d tars were there already", packed, len(done))


def _check_failures(failures: dict[str, str], total: int, max_failures: float) -> None:
    if failures and len(failures) > max_failures * total:
        uri, cause = next(iter(failures.items()))
        raise JobError(
            f"{len(failures)} of {total} images cannot be read, more than --max-failures {max_failures:g}"
            f" allows. The first is {uri}: {cause}. Whole tars are written; the same command continues"
        )


def iter_tars(planned: plan.Plan, tar_bytes: int) -> Iterator[Tar]:
    """Divide the shards of a plan into tars, each of at most `tar_bytes` listed bytes or one image."""
    for shard in planned.shards_for(None):
        rows: list[dict[str, Any]] = []
        size = number = 0
        for row in planned.shard(shard).to_pylist():
            one = row["size_bytes"] if row["size_bytes"] is not None else _UNKNOWN_SIZE
            if rows and size + one > tar_bytes:
                yield Tar(name=f"{shard:08d}-{number:04d}.tar", rows=rows)
                rows, size, number = [], 0, number + 1
            rows.append(row)
            size += one
        if rows:
            yield Tar(name=f"{shard:08d}-{number:04d}.tar", rows=rows)


def root_of(images: str) -> str:
    """Return the folder that the names in the tars are relative to; empty for lists."""
    whole = storage.absolute(images)
    if storage.is_image_list(images):
        return ""
    if is_pattern(whole):
        return literal_prefix(whole).rpartition("/")[0] + "/"
    return whole.rstrip("/") + "/"


def _writer(config: PackConfig, root: str) -> Any:
    """Return a function that writes one tar."""
    total_allowed = config.max_failures > 0

    def write(tar: Tar) -> Packed:
        data, failures = make_tar(tar, root, config.max_bytes)
        if failures and not total_allowed:
            return Packed(name=tar.name, num_images=0, failures=failures)
        if failures:
            described = json.dumps(failures, ensure_ascii=False, indent=1).encode()
            name = tar.name.replace(".tar", ".json")
            _create(storage.join(config.output, "left_out", name), described)
        _create(storage.join(config.output, "tars", tar.name), data)
        return Packed(name=tar.name, num_images=len(tar.rows) - len(failures), failures=failures)

    return write


def _create(uri: str, data: bytes) -> None:
    if not storage.create_bytes(uri, data):
        raise JobError(
            f"{uri} exists with other content: images changed or became readable since another command "
            "wrote it. Move it away, or give another --output"
        )


def make_tar(tar: Tar, root: str, max_bytes: int) -> tuple[bytes, dict[str, str]]:
    """Read the images of a tar, and return its bytes, and the images that could not be read."""
    out, failures = io.BytesIO(), dict[str, str]()
    members = Neighbours([row for row in tar.rows if is_placed(row)], max_bytes=max_bytes)

    def read(row: dict[str, Any]) -> bytes | StorageError:
        try:
            if is_placed(row):
                return members.read(row)
            return storage.read_bytes(row["image_uri"], etag=row["etag"], max_bytes=max_bytes)
        except StorageError as error:
            return error

    with ThreadPoolExecutor(_READS_AT_ONCE) as threads:
        for row, data in zip(tar.rows, threads.map(read, tar.rows), strict=True):
            if isinstance(data, StorageError):
                failures[row["image_uri"]] = f"{data.status}: {one_line(data)}"
                continue
            out.write(header_of(_name(row["image_uri"], root, data), len(data)))
            out.write(data)
            out.write(padding(len(data)))
    out.write(end_of(out.tell()))
    return out.getvalue(), failures


def _name(uri: str, root: str, data: bytes) -> bytes:
    """Return the name of an image in a tar. A row of a Parquet file gets a suffix by its content."""
    name, chain = unique_name(uri, root), split_chain(uri)
    if chain is None or chain.kind != "parquet":
        return name
    try:
        return name + b"." + sniff(data).lower().encode()
    except ImageError:
        return name + b".jpg"  # its row will say what is wrong


def _compressed_tars(images: str) -> list[str]:
    """Return the tars that are compressed as a whole, if --images names such."""
    if split_chain(images) is not None or archive_kind(images) != "compressed":
        return []
    return [info.uri for info in storage.list_objects(images) if archive_kind(info.uri)]


def _repack_all(config: PackConfig, uris: list[str]) -> None:
    """Write all files of compressed tars, also labels, into tars of --size. Links are left out."""
    logger.info("%d compressed tars", len(uris))
    if config.dry_run:
        return
    storage.check_exclusive_create(config.output)
    for uri in uris:
        with storage.driver_errors(uri):
            num_files, num_tars = _repack(config, uri)
        logger.info("%s: %d files in %d tars", uri, num_files, num_tars)


def _repack(config: PackConfig, uri: str) -> tuple[int, int]:
    """Repack one compressed tar. Return the numbers of files and tars."""
    stem = re.sub(r"\.(tar\.\w+|t\w+)$", "", storage.basename(uri), flags=re.IGNORECASE)
    files = tars = 0
    out = io.BytesIO()

    def write() -> None:
        nonlocal tars, out
        out.write(end_of(out.tell()))
        _create(storage.join(config.output, "tars", f"{stem}-{tars:04d}.tar"), out.getvalue())
        tars, out = tars + 1, io.BytesIO()

    key: bytes | None = None
    with unpacked(uri) as tar:
        try:
            for member in tar.members():
                if member.kind is not TarKind.FILE:
                    continue
                # The files of one example (1.jpg, 1.json) stay in one tar.
                folder, _, base = member.name.rpartition(b"/")
                new_key = folder + b"/" + base.partition(b".")[0]
                if out.tell() + member.size > config.tar_bytes and out.tell() and new_key != key:
                    write()
                key, data = new_key, tar.read(member)
                out.write(header_of(member.name, len(data)) + data + padding(len(data)))
                files += 1
        except DamagedArchiveError as error:
            raise JobError(
                f"{uri}: the archive {error.cause} (at byte {error.offset}, unpacked). The {tars} tars before"
                " it are written"
            ) from error
        if out.tell():
            write()
    return files, tars
