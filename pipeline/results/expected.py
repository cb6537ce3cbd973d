"""Loads the expected counts of a run: the sums of the scores in the newest row of each image, by class.

They lie in a DuckDB file on this machine's disk, 100 bytes an image, and pass by in batches. So memory does
not grow with the run.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline import record, storage
from pipeline.record import open_shard
from pipeline.results.scored import Origin, RunFiles, check_origin, origin_of
from pipeline.results.tables import FIND_SUPERSEDED, open_database, registered
from pipeline.runtime.prefetch import REQUESTS_AT_ONCE, prefetch
from pipeline.runtime.progress import Progress
from pipeline.schema import SCORED, read_columns
from pipeline.storage import ObjectInfo
from pipeline.storage.chains import UNPACKED_SQL

logger = logging.getLogger(__name__)

SURE = 0.1
"""The score from which the last box of a full image shows that more objects may follow."""
_CELLS = 2_000_000
"""Numbers of a batch: images times classes."""
_COLUMNS = pa.schema(
    [
        SCORED.field("image_uri"),
        SCORED.field("etag"),
        SCORED.field("status").with_type(pa.string()),
        SCORED.field("generation"),
        # DuckDB would apply a time zone.
        SCORED.field("scored_at").with_type(pa.timestamp("us")),
        SCORED.field("detections"),
    ]
)
_LOADED = pa.schema(
    [
        pa.field("row", pa.int64()),
        *(field for field in _COLUMNS if field.name not in ("status", "detections")),
        pa.field("boxes", pa.int32()),
        pa.field("lowest", pa.float32()),
        pa.field("ok", pa.bool_()),
        pa.field("labels", pa.list_(pa.int16())),
        pa.field("expected", pa.list_(pa.float32())),
    ]
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """A prefix, and its images by their newest row."""

    prefix: str
    """Its URI, with a slash at the end."""
    images: int
    """Images with status ok."""
    others: int
    """Images with another status: nobody looked at them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Some images with status ok."""

    rows: npt.NDArray[np.int64]
    """(B,) their numbers."""
    places: npt.NDArray[np.int64]
    """(B,) positions in the list of prefixes."""
    expected: npt.NDArray[np.float64]
    """(B, K) expected counts of the classes that are asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpectedCounts:
    """A loaded run. `load_expected` closes the connection."""

    connection: duckdb.DuckDBPyConnection
    classes: tuple[str, ...]
    """Names of the detector's classes; label k is classes[k - 1]."""
    model_id: str
    plans: frozenset[str]
    """The hashes of the generations of the plan; empty for runs of older versions."""

    def root(self) -> str:
        """Return the deepest folder that holds all images of the run, with a slash at the end.

        An archive counts as a folder.
        """
        query = f"SELECT min({UNPACKED_SQL}), max({UNPACKED_SQL}) FROM images"
        ((first, last),) = self.connection.execute(query).fetchall()
        common = 0
        while common < min(len(first), len(last)) and first[common] == last[common]:
            common += 1
        return str(first[: first.rfind("/", 0, common) + 1])

    def places(self, root: str, depth: int) -> list[Place]:
        """Count the images of each prefix, `depth` folders below the root.

        An image that lies less deep belongs to its folder.
        """
        query = (
            f"SELECT {_PREFIX}, count(*) FILTER (ok), count(*) FILTER (NOT ok) FROM images"
            " GROUP BY ALL ORDER BY 1"
        )
        found = self.connection.execute(query, _parameters(root, depth)).fetchall()
        return [Place(prefix=prefix, images=ok, others=others) for prefix, ok, others in found]

    def batches(
        self, root: str, depth: int, prefixes: Sequence[str], classes: Sequence[str]
    ) -> Iterator[Batch]:
        """Yield all images with status ok, each time in the same order.

        Args:
            root: as for `places`.
            depth: as for `places`.
            prefixes: the prefixes in order; an image below another one is left out.
            classes: the classes to return, in order.
        """
        column = np.full(len(self.classes) + 1, -1)
        for number, name in enumerate(classes):
            column[self.classes.index(name) + 1] = number
        number_of = {prefix: number for number, prefix in enumerate(prefixes)}
        query = f"SELECT row, {_PREFIX} AS prefix, labels, expected FROM images WHERE ok"
        # DuckDB returns the rows of one table in the order in which they were inserted.
        result = self.connection.sql(query, params=_parameters(root, depth))
        for batch in result.to_arrow_reader(max(1, _CELLS // len(classes))):
            yield _dense(batch, number_of, column, len(classes))

    def crowded(self, most: int) -> int:
        """Count the images with status ok that have `most` boxes or more, and none with a low score.

        What such an image lacks has scores up to that of its last box.
        """
        query = "SELECT count(*) FROM images WHERE ok AND boxes >= $1 AND lowest >= $2"
        ((count,),) = self.connection.execute(query, [most, SURE]).fetchall()
        return int(count)

    def names(self, rows: npt.NDArray[np.int64]) -> dict[int, tuple[str, str | None]]:
        """Return (image_uri, etag) of these rows, by row."""
        with registered(self.connection, pa.table({"row": np.unique(rows)})):
            query = "SELECT row, image_uri, etag FROM images SEMI JOIN shard USING (row)"
            found = self.connection.execute(query).fetchall()
        return {row: (uri, etag) for row, uri, etag in found}


_PREFIX = f"""
CASE WHEN NOT starts_with({UNPACKED_SQL}, $root) THEN ''
ELSE $root || array_to_string(list_transform(
    string_split(substr({UNPACKED_SQL}, length($root) + 1), '/')[1:-2][1:$depth],
    lambda part: part || '/'), '')
END"""


def _parameters(root: str, depth: int) -> dict[str, object]:
    return {"root": root, "depth": depth}


def _dense(
    batch: pa.RecordBatch,
    number_of: Mapping[str, int],
    column: npt.NDArray[np.int64],
    num_classes: int,
) -> Batch:
    prefixes = batch.column("prefix").dictionary_encode()
    known = np.array([number_of.get(name, -1) for name in prefixes.dictionary.to_pylist()])
    places = known[prefixes.indices.to_numpy()]
    labels, expected = batch.column("labels"), batch.column("expected")
    owners = np.repeat(np.arange(batch.num_rows), np.diff(labels.offsets.to_numpy()))
    columns = column[labels.flatten().to_numpy()]
    dense = np.zeros((batch.num_rows, num_classes))
    wanted = columns >= 0
    dense[owners[wanted], columns[wanted]] = expected.flatten().to_numpy()[wanted]
    inside = places >= 0
    rows = batch.column("row").to_numpy()
    return Batch(rows=rows[inside], places=places[inside], expected=dense[inside])


@contextmanager
def load_expected(
    files: RunFiles, *, memory_gib: float, temp_folder: str | None
) -> Iterator[ExpectedCounts]:
    """Read the expected counts of a run into a database that exists while the context is open.

    Args, Raises: as `pipeline.results.tables.load_run`.
    """
    with open_database(memory_gib, temp_folder) as connection:
        with registered(connection, _LOADED.empty_table()):
            connection.execute("CREATE TABLE images AS FROM shard")
        first: Origin | None = None
        plans: set[str] = set()
        loaded = 0
        with Progress("reading", len(files.objects), "shards") as progress:
            shards = prefetch(
                _read_shard, files.objects, threads=REQUESTS_AT_ONCE, waiting=REQUESTS_AT_ONCE
            )
            for number, (info, shard) in enumerate(zip(files.objects, shards, strict=True), 1):
                first = first or shard.origin
                check_origin(files, info.uri, shard.origin, first)
                plans |= shard.plans
                numbers = pa.array(np.arange(loaded, loaded + shard.rows.num_rows))
                with registered(connection, shard.rows.add_column(0, "row", numbers)):
                    connection.execute("INSERT INTO images FROM shard")
                loaded += shard.rows.num_rows
                progress.update(number)
        assert first is not None  # RunFiles are never empty
        connection.execute(FIND_SUPERSEDED)
        connection.execute("DELETE FROM images WHERE row IN (FROM superseded)")
        yield ExpectedCounts(
            connection=connection,
            classes=first.classes,
            model_id=first.model_id,
            plans=frozenset(plans),
        )


@dataclass(frozen=True, slots=True)
class _Shard:
    origin: Origin
    plans: frozenset[str]
    rows: pa.Table


def _read_shard(info: ObjectInfo) -> _Shard:
    with open_shard(info.uri, info.etag) as (file, classes, model_id):
        rows = read_columns(file, map(SCORED.field, _COLUMNS.names)).cast(_COLUMNS)
        plan = (file.schema_arrow.metadata or {}).get(b"plan_sha256")
        plans = frozenset() if plan is None else frozenset([plan.decode()])
        table = _sum_scores(rows.combine_chunks(), len(classes))
        return _Shard(origin_of(file, classes, model_id), plans, table)


def _sum_scores(rows: pa.Table, num_classes: int) -> pa.Table:
    """Replace the boxes of each image by its classes and the sum of their scores."""
    detections = rows["detections"]
    lengths = detections.combine_chunks().value_lengths().fill_null(0).to_numpy()
    boxes = pa.chunked_array(
        [chunk.flatten() for chunk in detections.chunks], detections.type.value_type
    )
    flat = pa.Table.from_struct_array(boxes)
    labels = flat["label_id"].to_numpy().astype(np.int64)
    owners = np.repeat(np.arange(rows.num_rows), lengths)
    keys, places = np.unique(owners * (num_classes + 1) + labels, return_inverse=True)
    sums = np.bincount(places, weights=flat["score"].to_numpy(), minlength=len(keys))
    counts = np.bincount(keys // (num_classes + 1), minlength=rows.num_rows)
    lowest = np.full(rows.num_rows, np.inf)
    np.minimum.at(lowest, owners, flat["score"].to_numpy())
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
    table = rows.drop_columns(["status", "detections"])
    for name, values in (
        ("boxes", pa.array(lengths.astype(np.int32))),
        ("lowest", pa.array(lowest.astype(np.float32))),
        ("ok", pa.compute.equal(rows["status"], "ok")),
        (
            "labels",
            pa.ListArray.from_arrays(
                offsets, pa.array((keys % (num_classes + 1)).astype(np.int16))
            ),
        ),
        ("expected", pa.ListArray.from_arrays(offsets, pa.array(sums.astype(np.float32)))),
    ):
        table = table.append_column(name, values)
    return table


def is_calibrated(files: RunFiles) -> bool | None:
    """Whether the scores of a run are calibrated. None: its config.json is missing or does not say."""
    uri = record.run_file_uri(files.root, files.run_id, "config.json")
    try:
        described = json.loads(storage.read_bytes(uri))
        model = described["checkpoint"]["model"]
    except (storage.StorageError, ValueError, KeyError, TypeError):
        return None
    return model.get("calibration") is not None
