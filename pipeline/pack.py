"""Packs many small images into tars, so that neighbours are read by one request.

    <output>/pack.json                       --size, and the folder that names are relative to; never changed
    <output>/plans/                          which images, as in a scoring run; never changed
    <output>/tars/<shard>-<number>.tar       each created once, whole
    <output>/left_out/<shard>-<number>.json  images that could not be read, with the cause (--max-failures)

The plan divides the images into shards, and the listed sizes divide a shard into tars
(`pipeline.packing.tars`). So the same plan always gives the same tars, byte for byte. A tar that exists is
done; the same command continues with the others, and two drivers cannot write one tar twice. What is left out
of a tar is written before the tar, and then holds for every later run.
"""

from __future__ import annotations

import json
import logging
import threading
from contextlib import closing
from dataclasses import dataclass
from functools import partial

from pipeline import storage
from pipeline.config.pack import PackConfig
from pipeline.errors import JobError, UserError
from pipeline.packing.compressed import compressed_tars, repack
from pipeline.packing.tars import UNKNOWN_SIZE, Tar, iter_tars, make_tar, root_of
from pipeline.record import plan
from pipeline.runtime.prefetch import prefetch
from pipeline.runtime.progress import Progress
from pipeline.scoring.filters import Filter
from pipeline.scoring.packed import ArchiveOptions
from pipeline.scoring.selection import Selection, check_output_outside, select
from pipeline.storage import ListOptions

logger = logging.getLogger(__name__)

_TARS_A_SHARD = 8
"""Tars of a shard of the plan, on average: the last one of a shard is smaller."""
_MOST_ROWS = 100_000
_TARS_AT_ONCE = 2
"""Each is in memory until it is written."""
_FILES = ("pack.json", "plans/000001.json", "tars/00000000-0000.tar", "left_out/00000000-0000.json")
"""Examples of the files of an output."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Packed:
    """What became of one tar."""

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
    check_output_outside(config.images, config.output, _FILES)
    root = root_of(config.images)
    if compressed := compressed_tars(config.images):
        logger.info("%d compressed tars", len(compressed))
        _settle(config, root)
        for uri in [] if config.dry_run else compressed:
            with storage.driver_errors(uri):
                repack(uri, root, config.tar_bytes, partial(_create_tar, config.output))
        return
    keep = Filter(include=config.include, exclude=config.exclude)
    archives = ArchiveOptions(open_all=config.archives)
    selection = select(config.images, None, keep, ListOptions(), archives)
    with closing(selection.listed):
        _run(config, selection, root)


def _run(config: PackConfig, selection: Selection, root: str) -> None:
    mean = max(1, selection.size_bytes // selection.num_images) or UNKNOWN_SIZE
    shard_size = max(1, min(_MOST_ROWS, _TARS_A_SHARD * config.tar_bytes // mean))
    logger.info(
        "%d images, %.1f MB: about %d tars",
        selection.num_images,
        selection.size_bytes / 1e6,
        -(-selection.size_bytes // config.tar_bytes),
    )
    _settle(config, root)
    if config.dry_run:
        return
    planned = plan.extend(config.output, selection.listed, shard_size=shard_size)
    done = _names(config.output, "tars")
    writer = _Writer(config, root, planned.num_images)
    packed = 0
    with Progress("packing", planned.num_images, "images") as progress:
        tars = iter_tars(planned, config.tar_bytes, selection.listed.replaced)
        todo = (tar for tar in tars if tar.name not in done)
        with storage.driver_errors(config.output):
            for result in prefetch(
                writer.write, todo, threads=_TARS_AT_ONCE, waiting=_TARS_AT_ONCE
            ):
                packed += result.num_images
                progress.update(packed)
                writer.check()
    logger.info("packed %d images; %d tars were there already", packed, len(done))


def _settle(config: PackConfig, root: str) -> None:
    """Write what decides which image lies in which tar, or check that it is as when the output began.

    Raises:
        UserError: it is not, so tars that exist would not fit to the others.
    """
    uri, ours = storage.join(config.output, "pack.json"), {"size": config.tar_bytes, "root": root}
    with storage.driver_errors(config.output):
        if not config.dry_run:
            storage.check_exclusive_create(config.output)
            if storage.create_bytes(uri, json.dumps(ours).encode()):
                return
        elif not storage.exists(uri):
            return
        theirs = json.loads(storage.read_bytes(uri))
    for name, flag in (("size", "--size"), ("root", "--images")):
        if theirs.get(name) != ours[name]:
            raise UserError(
                f"{flag} {getattr(config, flag[2:])}",
                f"is {ours[name]!r}, but the tars in {config.output} were begun with {theirs.get(name)!r}",
                f"Give the {flag} as before, or another --output.",
            )


def _names(output: str, folder: str) -> set[str]:
    found = storage.list_objects(storage.join(output, folder), missing_ok=True)
    return {storage.basename(info.uri) for info in found}


def _create_tar(output: str, name: str, data: bytes) -> None:
    uri = storage.join(output, "tars", name)
    if not storage.create_bytes(uri, data):
        raise JobError(
            f"{uri} exists with other content: images changed or became readable since another command "
            "wrote it, or another archive has this name. Move it away, or give another --output"
        )


class _Writer:
    """Writes tars, in several threads, while few enough images fail."""

    def __init__(self, config: PackConfig, root: str, num_images: int) -> None:
        self._config, self._root, self._total = config, root, num_images
        self._recorded = _names(config.output, "left_out")
        self._lock = threading.Lock()
        self._failures: dict[str, str] = {}

    def write(self, tar: Tar) -> Packed:
        """Write one tar, unless too many images failed."""
        name = tar.name.replace(".tar", ".json")
        uri = storage.join(self._config.output, "left_out", name)
        left_out = json.loads(storage.read_bytes(uri)) if name in self._recorded else {}
        data, failures = make_tar(tar, self._root, self._config.max_bytes, left_out)
        if not self._count(left_out | failures):
            return Packed(num_images=0, failures=failures)
        if failures:
            if left_out or not storage.create_bytes(
                uri, json.dumps(failures, ensure_ascii=False, indent=1).encode()
            ):
                raise JobError(
                    f"{uri} does not name all images that cannot be read now, such as {next(iter(failures))}."
                    " Run the same command again; if it stays so, move this file and its tar away"
                )
        _create_tar(self._config.output, tar.name, data)
        num_images = len(tar.rows) - len(left_out) - len(failures)
        return Packed(num_images=num_images, failures=failures)

    def _count(self, failures: dict[str, str]) -> bool:
        """Add failures. Return whether there are few enough."""
        with self._lock:
            self._failures |= failures
            return len(self._failures) <= self._config.max_failures * self._total

    def check(self) -> None:
        """Raise JobError if too many images failed."""
        if self._count({}):
            return
        uri, cause = next(iter(self._failures.items()))
        raise JobError(
            f"{len(self._failures)} of {self._total} images cannot be read, more than --max-failures"
            f" {self._config.max_failures:g} allows. The first is {uri}: {cause}. Whole tars are written; the"
            " same command continues. --max-failures leaves out images that are gone"
        )
