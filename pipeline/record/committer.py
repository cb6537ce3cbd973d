"""Result rows in whatever order they come -> whole shards, each created once (`pipeline.record`).

One process is enough: encoding and the PUT run in threads, outside Python's lock. `jobs/benchmark.py
scale` says how many images a second that carries.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.errors import JobError
from pipeline.record.plan import Plan
from pipeline.record.shards import Shard, inspect, shard_uri
from pipeline.schema import SCORED, encode_parquet

PUTS_AT_ONCE = 8
_PUTS_WAITING = 16
"""Whole shards that wait for a PUT: more, and `add` waits, so Ray's back-pressure reaches the bucket."""


class Committer:
    """Collects result rows; writes each shard when it is whole.

    Args:
        output: scored/ lies under it.
        run_id: the run.
        plan: the plan.
        to_do: shards to be made.
        metadata: of each Parquet file. The hash of the shard's generation is added.
        columns: names of SCORED that the run began with.
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
        self._lacking = set(to_do)
        self._waiting: dict[int, list[pa.Table]] = {}
        self._threads = ThreadPoolExecutor(PUTS_AT_ONCE, thread_name_prefix="commit")
        self._puts: deque[Future[Shard]] = deque()
        self.shards: list[Shard] = []
        self._lock = threading.Lock()

    def add(self, rows: pa.Table) -> None:
        """Take result rows (schema RESULT) of any shards; create those shards that are now whole.

        Raises:
            JobError: a shard that was whole was not what the plan says.
        """
        for shard in pc.unique(rows["shard"]).to_pylist():
            tables = self._waiting.setdefault(shard, [])
            tables.append(rows.filter(pc.equal(rows["shard"], shard)))
            if sum(table.num_rows for table in tables) >= self._plan.num_rows(shard):
                whole = pa.concat_tables(self._waiting.pop(shard)).sort_by("image_uri")
                self._puts.append(self._threads.submit(self._create, shard, whole))
        while len(self._puts) > _PUTS_WAITING or (self._puts and self._puts[0].done()):
            self._take(self._puts.popleft())

    def flush(self) -> None:
        """Wait until every whole shard is there. Raises JobError as `add`."""
        while self._puts:
            self._take(self._puts.popleft())

    def close(self) -> None:
        """Wait as `flush` does, and end.

        Raises:
            JobError: a planned image of a shard to be done brought no row; or as `add`.
        """
        try:
            self.flush()
        finally:
            self._threads.shutdown(cancel_futures=True)
        if self._lacking:
            shard = min(self._lacking)
            got = sum(table.num_rows for table in self._waiting.get(shard, []))
            raise JobError(
                f"shard {shard} got {got} rows of {self._plan.num_rows(shard)}; nothing of it was "
                "written. Run the same command again"
            )

    def _take(self, put: Future[Shard]) -> None:
        made = put.result()
        self.shards.append(made)
        self._lacking.discard(made.shard)

    def _create(self, shard: int, rows: pa.Table) -> Shard:
        generation = self._plan.generation(shard)
        rows = _date_changed(rows, generation.planned_at)
        number = pa.scalar(self._plan.generation_number(shard), pa.int32())
        column = rows.schema.get_field_index("generation")
        rows = rows.set_column(column, "generation", pa.repeat(number, rows.num_rows))
        data = encode_parquet(
            rows.select(self._schema.names).cast(self._schema),
            metadata=self._metadata | {b"plan_sha256": generation.sha256.encode()},
        )
        with self._lock:  # parts of the plan are kept: else eight threads would read the same one
            planned = self._plan.shard(shard)
        made = inspect(shard, data, planned)
        uri = shard_uri(self._output, self._run_id, shard)
        if storage.create_bytes(uri, data):
            return made
        # Another driver was first. Its rows are as good as ours and stay as they are.
        return inspect(shard, storage.read_bytes(uri), planned)


def _date_changed(rows: pa.Table, planned_at: datetime) -> pa.Table:
    """Give rows with status `changed` the time when their object was last known to be there.

    The image's newer version is a row of its own, and readers take the newest: under a new run_id both
    may be scored in the same instant, and the row that says "changed" must not win.
    """
    when = pa.scalar(planned_at, SCORED.field("scored_at").type)
    dates = pc.if_else(pc.equal(rows["status"], "changed"), when, rows["scored_at"])
    return rows.set_column(rows.schema.get_field_index("scored_at"), "scored_at", dates)
