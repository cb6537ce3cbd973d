"""Reading `scored/` back: which runs there are, and the newest row of each image of one of them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.errors import UserError
from pipeline.record import open_shard
from pipeline.runtime.prefetch import in_threads
from pipeline.schema import SCORED, read_columns
from pipeline.storage import ObjectInfo

_COLUMNS = pa.schema(
    [
        SCORED.field("image_uri"),
        SCORED.field("status").with_type(pa.string()),
        *(SCORED.field(name) for name in ("generation", "scored_at", "detections")),
    ]
)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFiles:
    """The Parquet files of one run of `scored/`; `root` is the --output they were written to."""

    run_id: str
    root: str
    objects: tuple[ObjectInfo, ...]

    @property
    def uris(self) -> tuple[str, ...]:
        """Of `objects`, in the same order: by name."""
        return tuple(info.uri for info in self.objects)


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredRun:
    """What a run says of some images.

    Args:
        classes: of the detector; label k is classes[k - 1].
        model_id: of the detector.
        rows: columns image_uri, status (plain text), generation, scored_at, detections; one row an image,
            its newest, by image_uri.
        num_rows: of the whole run, older ones and other images included.
    """

    classes: tuple[str, ...]
    model_id: str
    rows: pa.Table
    num_rows: int


def find_run(scored: str, run_id: str | None = None) -> RunFiles:
    """The run that `scored` and `run_id` mean.

    Args:
        scored: the --output of a scoring run, its `scored/`, or `scored/<run_id>`.
        run_id: needed where there are several.

    Raises:
        UserError: nothing there, no such run, or several and no `run_id`.
    """
    runs = list_runs(scored)
    known = ", ".join(sorted(runs))
    if run_id is None and len(runs) > 1:
        raise UserError(f"--scored {scored}", f"holds {len(runs)} runs", f"Give --run-id: {known}.")
    chosen = run_id or next(iter(runs))
    if chosen not in runs:
        raise UserError(f"--run-id {chosen}", f"is not under {scored}", f"There is: {known}.")
    return runs[chosen]


def list_runs(scored: str) -> dict[str, RunFiles]:
    """Files by run id; the folder of a run lies in scored/, or is what we were given.

    Args:
        scored: as for `find_run`.

    Raises:
        UserError: there is none.
    """
    top = storage.absolute(scored).rstrip("/")
    below = storage.join(top, "scored")
    found = storage.list_objects(below, suffixes=(".parquet",), missing_ok=True)
    folders = [below + "/" + info.uri.removeprefix(below + "/").split("/")[0] for info in found]
    if not found:
        depth = 1 if storage.basename(top) == "scored" else 0  # folders between `top` and a file
        found = [
            info
            for info in storage.list_objects(top, suffixes=(".parquet",))
            if info.uri.removeprefix(top + "/").count("/") == depth
        ]
        folders = [info.uri.rpartition("/")[0] for info in found]
    if not found:
        raise UserError(
            f"--scored {scored}",
            "holds no scored/<run_id>/*.parquet",
            "Give the --output of jobs/score_bucket.py.",
        )
    runs: dict[str, list[ObjectInfo]] = {}
    for folder, info in zip(folders, found, strict=True):
        runs.setdefault(folder, []).append(info)
    return {
        storage.basename(folder): RunFiles(
            run_id=storage.basename(folder), root=_root(folder), objects=tuple(files)
        )
        for folder, files in runs.items()
    }


def _root(folder: str) -> str:
    """<root>/scored/<run_id> -> <root>: only shards may lie under scored/. Else the folder itself."""
    parent = folder.rpartition("/")[0]
    return parent.removesuffix("/scored") if parent.endswith("/scored") else folder


def read_run(files: RunFiles, basenames: Collection[str]) -> ScoredRun:
    """The newest row of each image whose file name is one of `basenames`.

    Only those are kept in memory: a bucket may hold far more images than have labels.

    Raises:
        UserError: a file is not there, not readable, not a table of a scoring run, or of other classes.
    """
    wanted = frozenset(basenames)
    shards = in_threads(lambda uri: _read_shard(uri, wanted), files.uris)
    first = shards[0]
    for uri, shard in zip(files.uris, shards, strict=True):
        check_classes(files, uri, shard.classes, first.classes)
    rows = pa.concat_tables([shard.rows for shard in shards])
    return ScoredRun(
        classes=first.classes,
        model_id=first.model_id,
        rows=newest(rows),
        num_rows=sum(shard.num_rows for shard in shards),
    )


def check_classes(
    files: RunFiles, uri: str, classes: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    """Raises UserError where the file `uri` of a run has other classes than the run's first file."""
    if classes != expected:
        raise UserError(
            uri,
            f"is of a detector with other classes than {files.uris[0]}",
            "Keep the files of different runs in different folders.",
        )


def _read_shard(uri: str, basenames: frozenset[str]) -> ScoredRun:
    with open_shard(uri) as (file, classes, model_id):
        uris = read_columns(file, [SCORED.field("image_uri")])["image_uri"]
        keep = np.array([storage.basename(u) in basenames for u in uris.to_pylist()], bool)
        # Boxes are most of a file; those without a wanted image are not decoded.
        rows = _COLUMNS.empty_table()
        if keep.any():
            rows = read_columns(file, _COLUMNS).filter(pa.array(keep)).cast(_COLUMNS)
        return ScoredRun(
            classes=classes,
            model_id=model_id,
            rows=rows,
            num_rows=len(keep),
        )


def newest(rows: pa.Table) -> pa.Table:
    """One row an image_uri: that of the highest generation, and of several the one scored last.

    Args:
        rows: with the columns image_uri, generation (null = 1) and scored_at, which may be null.
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
