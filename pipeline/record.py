"""Which images are done: whole shards under scored/<run_id>/, each created once.

    <output>/scored/<run_id>/00000007.parquet        one row for each image that the plan put in shard 7

Why every planned image has exactly one row in a run, whatever dies: the plan fixes the shard of an image
(`pipeline.plan`); a shard is encoded in memory only when its rows are the plan's, and becomes visible
through one exclusive create, so at most one object per shard ever exists and it is whole. A driver that
was killed left some shards out; the next one scores plan minus LIST. Nothing else decides what is done.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import JobError, UserError
from pipeline.plan import Plan
from pipeline.schema import SCORED, TABLE_VERSION, encode_parquet

logger = logging.getLogger(__name__)

Planned = tuple[str, str | None]
"""(image_uri, etag): what the plan promises a row for."""

RESULT = pa.schema(
    [
        field.with_type(pa.string()) if pa.types.is_dictionary(field.type) else field
        for field in SCORED
    ]
    + [pa.field("shard", pa.int64(), nullable=False)]
)
"""A result row on its way to its shard: the columns of scored/ and the shard's number. Status is plain
text here, because blocks from different workers are put together before the column is encoded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """One object of scored/<run_id>/, as the manifest describes it."""

    shard: int
    rows: int
    statuses: dict[str, int]
    num_detections: int
    size_bytes: int
    sha256: str


def make_run_id(facts: Mapping[str, object]) -> str:
    """16 hex digits that change with anything in `facts` (JSON types), and with the table version."""
    text = json.dumps({**facts, "table_version": TABLE_VERSION}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def scored_uri(output: str, run_id: str) -> str:
    """The folder of a run's shards."""
    return storage.join(output, "scored", run_id)


def shard_uri(output: str, run_id: str, shard: int) -> str:
    """The object of one shard."""
    return storage.join(scored_uri(output, run_id), f"{shard:08d}.parquet")


def done_shards(output: str, run_id: str, plan: Plan) -> set[int]:
    """The shards that are there.

    Raises:
        UserError: something else is there too: readers take all of scored/ for rows of ours.
    """
    uris = {
        storage.absolute(shard_uri(output, run_id, shard)): shard for shard in plan.shard_sizes()
    }
    found = [item.uri for item in storage.list_objects(scored_uri(output, run_id), missing_ok=True)]
    foreign = [uri for uri in found if uri not in uris]
    if foreign:
        raise UserError(
            foreign[0],
            f"is no shard of the plan under {output} ({len(foreign)} such objects)",
            "Move it away, or give another --output.",
        )
    return {uris[uri] for uri in found}


def to_do(plan: Plan, done: Collection[int], only: Collection[str] | None = None) -> pa.Table:
    """The plan's rows of the shards that are not done.

    Args:
        plan: the plan.
        done: shards, from `done_shards`.
        only: image URIs; then just the shards that hold one of them, whole.
    """
    rows = plan.rows
    lacking = plan.shard_sizes().keys() - done
    if only is not None:
        named = rows.filter(pc.is_in(rows["image_uri"], pa.array(list(only), pa.string())))
        lacking &= set(named["shard"].to_pylist())
    return rows.filter(pc.is_in(rows["shard"], pa.array(sorted(lacking), pa.int64())))


class Committer:
    """Collects result rows in whatever order they come; writes each shard when it is whole.

    Args:
        output: scored/ lies under it.
        run_id: the run.
        plan: the plan.
        to_do: those of its rows whose shards are to be made; whole shards.
        metadata: of each Parquet file.
    """

    def __init__(
        self,
        *,
        output: str,
        run_id: str,
        plan: Plan,
        to_do: pa.Table,
        metadata: Mapping[bytes, bytes],
    ) -> None:
        self._output = output
        self._run_id = run_id
        self._plan = plan
        self._metadata = dict(metadata)
        self._planned = images_by_shard(to_do)
        self._waiting: dict[int, list[pa.Table]] = {}
        self.shards: list[Shard] = []

    def add(self, rows: pa.Table) -> None:
        """Take result rows (schema RESULT) of any shards; create those shards that are now whole."""
        for shard in pc.unique(rows["shard"]).to_pylist():
            tables = self._waiting.setdefault(shard, [])
            tables.append(rows.filter(pc.equal(rows["shard"], shard)))
            if sum(table.num_rows for table in tables) == len(self._planned[shard]):
                whole = pa.concat_tables(self._waiting.pop(shard)).sort_by("image_uri")
                self.shards.append(self._create(shard, whole))

    def check_nothing_waits(self) -> None:
        """Raises JobError when a planned image of a shard to be done brought no row."""
        if len(self.shards) < len(self._planned):
            lacking = min(self._planned.keys() - {done.shard for done in self.shards})
            got = sum(table.num_rows for table in self._waiting.get(lacking, []))
            raise JobError(
                f"shard {lacking} got {got} rows of {len(self._planned[lacking])}; nothing of it was "
                "written. Run the same command again"
            )

    def _create(self, shard: int, rows: pa.Table) -> Shard:
        table = (
            _date_changed(rows, self._plan.planned_at(shard)).drop_columns(["shard"]).cast(SCORED)
        )
        data = encode_parquet(table, metadata=self._metadata)
        uri = shard_uri(self._output, self._run_id, shard)
        made = inspect(shard, data, self._planned[shard])
        if storage.create_bytes(uri, data):
            return made
        # Another driver was first. Its rows are as good as ours and stay as they are.
        return inspect(shard, storage.read_bytes(uri), self._planned[shard])


def _date_changed(rows: pa.Table, planned_at: datetime) -> pa.Table:
    """Give rows with status `changed` the time when their object was last known to be there.

    The image's newer version is a row of its own, and readers take the newest: under a new run_id both
    may be scored in the same instant, and the row that says "changed" must not win.
    """
    when = pa.scalar(planned_at, SCORED.field("scored_at").type)
    dates = pc.if_else(pc.equal(rows["status"], "changed"), when, rows["scored_at"])
    return rows.set_column(rows.schema.get_field_index("scored_at"), "scored_at", dates)


def inspect(shard: int, data: bytes, planned: Collection[Planned]) -> Shard:
    """Describe the bytes of a shard after checking that its rows are the planned (image_uri, etag).

    Raises:
        JobError: they are not, or the bytes are no Parquet of ours.
    """
    try:
        columns = ["image_uri", "etag", "status", "num_detections"]
        table = pq.read_table(io.BytesIO(data), columns=columns)
        found = Counter(zip(table["image_uri"].to_pylist(), table["etag"].to_pylist(), strict=True))
        statuses = dict(Counter(table["status"].cast(pa.string()).to_pylist()).most_common())
        num_detections = pc.sum(table["num_detections"]).as_py() or 0
    except (pa.ArrowException, KeyError) as error:
        raise JobError(f"shard {shard} is no Parquet of ours: {error}") from error
    if found != Counter(planned):
        raise JobError(
            f"shard {shard} holds {table.num_rows} rows that are not the {len(planned)} of the plan"
        )
    return Shard(
        shard=shard,
        rows=table.num_rows,
        statuses=statuses,
        num_detections=num_detections,
        size_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
    )


def images_by_shard(rows: pa.Table) -> dict[int, list[Planned]]:
    """What is planned (schema PLAN), by shard."""
    images: dict[int, list[Planned]] = {}
    columns = (rows[name].to_pylist() for name in ("shard", "image_uri", "etag"))
    for shard, uri, etag in zip(*columns, strict=True):
        images.setdefault(shard, []).append((uri, etag))
    return images
