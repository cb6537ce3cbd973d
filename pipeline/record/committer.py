"""Collects result rows, which come in any order, and creates each shard once, whole (see `pipeline.record`).

One process is enough, because encoding and the PUT run in threads that release Python's lock.
`jobs/benchmark.py scale` measures how many images a second it can write.
"""

from __future__ import annotations

import threading
import uuid
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.errors import JobError
from pipeline.record.inspection import inspect, read_shard
from pipeline.record.plan import Plan
from pipeline.record.shards import Shard, shard_uri
from pipeline.schema import SCORED, encode_parquet

PUTS_AT_ONCE = 8
_PUTS_WAITING = 16
"""Whole shards that may wait for a PUT. When there are more, `add` waits, and Ray slows down the stages."""


class Committer:
    """Collects result rows and writes each shard when it is whole.

    Args:
        output: the --output of the job; the shards are written under its scored/.
        run_id: the run that the shards belong to.
        plan: says which rows each shard has.
        to_do: numbers of the shards to write.
        metadata: written into each Parquet file, with what `pipeline.record.shards` adds.
        columns: the columns of SCORED that the run began with.
    """

    def __init__(
        self,
        *,
        output: str,
        run_id: str,
        plan: Plan,
        to_do: Collection[int],
        metadata: Mapping[bytes, bytes],
        columns: Sequence[str] = tuple(SCORED.names),
    ) -> None:
        self._output = output
        self._run_id = run_id
        self._plan = plan
        self._schema = pa.schema([SCORED.field(name) for name in columns])
        self._metadata = dict(metadata)
        self._missing = set(to_do)
        self._incomplete: dict[int, list[pa.Table]] = {}
        self._threads = ThreadPoolExecutor(PUTS_AT_ONCE, thread_name_prefix="commit")
        self._puts: deque[Future[Shard]] = deque()
        self.shards: list[Shard] = []
        self._lock = threading.Lock()

    def add(self, rows: pa.Table) -> None:
        """Take result rows (schema RESULT) of any shards, and create the shards that are now whole.

        Raises:
            JobError: the rows of a whole shard, of this call or an earlier one, differ from the plan.
            StorageError: a shard cannot be written.
        """
        for shard in pc.unique(rows["shard"]).to_pylist():
            tables = self._incomplete.setdefault(shard, [])
            tables.append(rows.filter(pc.equal(rows["shard"], shard)))
            if sum(table.num_rows for table in tables) >= self._plan.num_rows(shard):
                whole = pa.concat_tables(self._incomplete.pop(shard)).sort_by("image_uri")
                self._puts.append(self._threads.submit(self._create_shard, shard, whole))
        while len(self._puts) > _PUTS_WAITING or (self._puts and self._puts[0].done()):
            self._finish_put(self._puts.popleft())

    def flush(self) -> None:
        """Wait until every whole shard is written. Raises JobError as `add` does, and `StorageError`."""
        while self._puts:
            self._finish_put(self._puts.popleft())

    def close(self) -> None:
        """Wait until every whole shard is written, and stop the threads.

        Raises:
            JobError: a shard of `to_do` is not whole, or its rows differ from the plan.
            StorageError: a shard cannot be written.
        """
        try:
            self.flush()
        finally:
            self._threads.shutdown(cancel_futures=True)
        if self._missing:
            shard = min(self._missing)
            num_rows = sum(table.num_rows for table in self._incomplete.get(shard, []))
            raise JobError(
                f"shard {shard} has {num_rows} of its {self._plan.num_rows(shard)} rows, so it was not"
                " written. Run the same command again"
            )

    def _finish_put(self, put: Future[Shard]) -> None:
        written = put.result()
        self.shards.append(written)
        self._missing.discard(written.shard)

    def _create_shard(self, shard: int, rows: pa.Table) -> Shard:
        generation = self._plan.generation(shard)
        rows = _date_changed(rows, generation.planned_at)
        number = pa.scalar(self._plan.generation_number(shard), pa.int32())
        column = rows.schema.get_field_index("generation")
        rows = rows.set_column(column, "generation", pa.repeat(number, rows.num_rows))
        marks = {
            b"plan_sha256": generation.sha256.encode(),
            b"shard": str(shard).encode(),
            b"write_id": uuid.uuid4().hex.encode(),
        }
        data = encode_parquet(
            rows.select(self._schema.names).cast(self._schema), metadata=self._metadata | marks
        )
        # Parts of the plan are cached. Without the lock, eight threads would read the same one.
        with self._lock:
            planned = self._plan.shard(shard)
        described = inspect(shard, data, planned, generation.sha256, whole=False)
        uri = shard_uri(self._output, self._run_id, shard)
        if storage.create_bytes(uri, data):
            return replace(described, etag=storage.stat(uri).etag)
        # Another driver created this shard first. Its rows are valid too and stay.
        return read_shard(uri, shard, self._plan)


def _date_changed(rows: pa.Table, planned_at: datetime) -> pa.Table:
    """Date rows with status `changed` with the time of their plan: the old version existed then.

    The new version of the image has another row, and readers take the newest row. In a new run both rows may
    be scored at the same moment, and the row with status `changed` must not win.
    """
    when = pa.scalar(planned_at, SCORED.field("scored_at").type)
    dates = pc.if_else(pc.equal(rows["status"], "changed"), when, rows["scored_at"])
    return rows.set_column(rows.schema.get_field_index("scored_at"), "scored_at", dates)
