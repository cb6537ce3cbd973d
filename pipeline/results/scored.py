"""Reads `scored/`: lists its runs, and reads the newest row of each image of a run."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import UserError
from pipeline.record import open_shard
from pipeline.runtime.prefetch import in_threads
from pipeline.schema import SCORED, read_columns
from pipeline.storage import ObjectInfo

_RUN_ID = re.compile("[0-9a-f]{16}")
"""The form of a run_id (`pipeline.record.make_run_id`)."""
_COLUMNS = pa.schema(
    [
        SCORED.field("image_uri"),
        SCORED.field("status").with_type(pa.string()),
        *(
            SCORED.field(name)
            for name in ("height", "width", "generation", "num_tiles", "scored_at", "detections")
        ),
    ]
)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFiles:
    """The Parquet files of one run of `scored/`. `root` is the --output that they were written to."""

    run_id: str
    root: str
    objects: tuple[ObjectInfo, ...]

    @property
    def uris(self) -> tuple[str, ...]:
        """The URIs of `objects`, in the same order, which is by name."""
        return tuple(info.uri for info in self.objects)


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredRun:
    """The rows of a run for some images.

    Args:
        classes: names of the detector's classes; label k is classes[k - 1].
        model_id: the detector.
        rows: the newest row of each image, by image_uri; columns image_uri, status (plain text), height,
            width, generation, num_tiles, scored_at, detections.
        num_rows: the number of all rows of the run, with older rows and other images.
    """

    classes: tuple[str, ...]
    model_id: str
    rows: pa.Table
    num_rows: int


def find_run(scored: str, run_id: str | None = None) -> RunFiles:
    """Find the files of a run.

    Args:
        scored: the --output of a scoring run, its `scored/`, or `scored/<run_id>`.
        run_id: needed if there are several runs.

    Raises:
        UserError: there is no run, there is no run with this `run_id`, or there are several and no `run_id`
            is given.
    """
    runs = list_runs(scored)
    known = ", ".join(sorted(runs))
    if run_id is None and len(runs) > 1:
        raise UserError(f"--scored {scored}", f"holds {len(runs)} runs", f"Give --run-id: {known}.")
    chosen = run_id or next(iter(runs))
    if chosen not in runs:
        raise UserError(f"--run-id {chosen}", f"is not under {scored}", f"Give one of: {known}.")
    return runs[chosen]


def list_runs(scored: str) -> dict[str, RunFiles]:
    """List the files of all runs, by run id.

    The folder of a run lies in the `scored/` below `scored`, or in `scored`, or is `scored` itself.

    Args:
        scored: as for `find_run`.

    Raises:
        UserError: there is no run.
    """
    top = storage.absolute(scored).rstrip("/")
    below = storage.join(top, "scored")
    shards = storage.list_objects(below, suffixes=(".parquet",), missing_ok=True)
    folders = [below + "/" + info.uri.removeprefix(below + "/").split("/")[0] for info in shards]
    if not shards:
        depth = 1 if storage.basename(top) == "scored" else 0  # folders between `top` and a file
        shards = [
            info
            for info in storage.list_objects(top, suffixes=(".parquet",))
            if info.uri.removeprefix(top + "/").count("/") == depth
        ]
        folders = [info.uri.rpartition("/")[0] for info in shards]
    if not shards:
        raise UserError(
            f"--scored {scored}",
            "holds no scored/<run_id>/*.parquet",
            "Give the --output of jobs/score_bucket.py.",
        )
    runs: dict[str, list[ObjectInfo]] = {}
    for folder, info in zip(folders, shards, strict=True):
        runs.setdefault(folder, []).append(info)
    return {
        storage.basename(folder): RunFiles(
            run_id=storage.basename(folder), root=_root(folder), objects=tuple(files)
        )
        for folder, files in runs.items()
    }


def _root(folder: str) -> str:
    """Return <root> for <root>/scored/<run_id>, because only shards may lie under scored/.

    For another folder, return the folder itself.
    """
    parent = folder.rpartition("/")[0]
    return parent.removesuffix("/scored") if parent.endswith("/scored") else folder


def read_run(files: RunFiles, basenames: Collection[str]) -> ScoredRun:
    """Read the newest row of each image whose file name is one of `basenames`.

    Only these rows are kept in memory, because a bucket may hold far more images than have labels.

    Raises:
        UserError: a file is missing, unreadable, not a table of a scoring run, or has other classes.
    """
    wanted = frozenset(basenames)
    shards = in_threads(lambda uri: _read_shard(uri, wanted), files.uris)
    first = shards[0].origin
    for uri, shard in zip(files.uris, shards, strict=True):
        check_origin(files, uri, shard.origin, first)
    rows = pa.concat_tables([shard.rows for shard in shards])
    return ScoredRun(
        classes=first.classes,
        model_id=first.model_id,
        rows=newest(rows),
        num_rows=sum(shard.num_rows for shard in shards),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Where the rows of one file come from. All files of a run have the same origin."""

    classes: tuple[str, ...]
    model_id: str
    run_ids: frozenset[str]
    """The smallest and the largest value of the column run_id; empty if the file does not say."""


def origin_of(file: pq.ParquetFile, classes: tuple[str, ...], model_id: str) -> Origin:
    """Return the origin of an open file. The run comes from its statistics: no page is read."""
    run_ids = set()
    for number in range(file.metadata.num_row_groups):
        group = file.metadata.row_group(number)
        for place in range(group.num_columns):
            column = group.column(place)
            if column.path_in_schema == "run_id" and column.statistics is not None:
                run_ids |= {column.statistics.min, column.statistics.max} - {None}
    return Origin(classes=classes, model_id=model_id, run_ids=frozenset(run_ids))


def check_origin(files: RunFiles, uri: str, origin: Origin, first: Origin) -> None:
    """Raise UserError if the file `uri` does not belong to the run that it lies in.

    A folder that a person has renamed no longer names its run. Its first file does.

    Args:
        files: the run.
        uri: one of its files.
        origin: the origin of this file.
        first: the origin of the first file of the run.
    """
    if origin.classes != first.classes:
        raise UserError(
            uri,
            f"comes from a detector with other classes than {files.uris[0]}",
            "Put the files of different runs into different folders.",
        )
    expected = {files.run_id} if _RUN_ID.fullmatch(files.run_id) else first.run_ids
    others = sorted(origin.run_ids - expected)
    if expected and others:
        raise UserError(
            uri,
            f"holds rows of run {others[0]}, expected run {min(expected)}",
            "Run the command of jobs/score_bucket.py for this run with --repair: it moves the file"
            " to runs/<run_id>/damaged/ and scores its images again.",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Shard:
    origin: Origin
    rows: pa.Table
    num_rows: int
    """The number of all its rows, with other images."""


def _read_shard(uri: str, basenames: frozenset[str]) -> _Shard:
    with open_shard(uri) as (file, classes, model_id):
        uris = read_columns(file, [SCORED.field("image_uri")])["image_uri"]
        keep = np.array([storage.basename(u) in basenames for u in uris.to_pylist()], bool)
        # Boxes are the largest part of a file. They are not decoded if the file has no wanted image.
        rows = _COLUMNS.empty_table()
        if keep.any():
            rows = read_columns(file, _COLUMNS).filter(pa.array(keep)).cast(_COLUMNS)
        return _Shard(origin=origin_of(file, classes, model_id), rows=rows, num_rows=len(keep))


def newest(rows: pa.Table) -> pa.Table:
    """Keep one row for each image_uri: the one with the highest generation, then the one scored last.

    Args:
        rows: have the columns image_uri, generation (null = 1) and scored_at, which may be null.
    """
    if rows.num_rows == 0:
        return rows
    keys = pa.table(
        {
            "image_uri": rows["image_uri"],
            "generation": pc.fill_null(rows["generation"], 1),
            "scored_at": rows["scored_at"],
        }
    )
    order = [("image_uri", "ascending"), ("generation", "descending"), ("scored_at", "descending")]
    rows = rows.take(pc.sort_indices(keys, sort_keys=order))  # nulls come last
    uris = rows["image_uri"].to_pylist()
    first = [i == 0 or uri != uris[i - 1] for i, uri in enumerate(uris)]
    return rows.filter(pa.array(first, pa.bool_()))
