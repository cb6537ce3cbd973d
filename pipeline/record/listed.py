"""Compares the images that a command names with the planned images, in a DuckDB file on this machine's disk.

As Python objects, ten million keys with their ETags take a gigabyte of memory. DuckDB sorts and compares them
with at most `MEMORY`; the rest lies on the disk, about 60 bytes a key while the command runs.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.record.members import is_chained, settle_members
from pipeline.runtime.prefetch import in_threads
from pipeline.schema import LISTED, PLACE
from pipeline.storage import Access, StorageError

MEMORY = "512MB"
_ROWS_AT_ONCE = 50_000
_LOOK_UPS_AT_ONCE = 32
TRIES = 3
"""An image whose rows in its last three retry generations have the same status is left alone."""
_COLUMNS = ", ".join(f'"{name}"' for name in LISTED.names)
_ORDER = """CASE WHEN "offset" IS NULL THEN image_uri
    ELSE substr(image_uri, strpos(image_uri, '::') + 2) END, "offset" NULLS FIRST, image_uri"""
"""The order of a plan: by URI; the members of an archive by their place in it."""
_SAME_IMAGE = "l.image_uri = p.image_uri AND l.etag IS NOT DISTINCT FROM p.etag"


class ListedImages:
    """The images that a command names (LISTED), and which of them are planned.

    Call `add` and `add_members` for all images, then `deduplicate` once, then `add_planned`. `close` deletes
    the file.
    """

    def __init__(self) -> None:
        self.next_shard = 0
        """The first shard whose rows were not added."""
        self._folder = tempfile.mkdtemp(prefix="listed-")
        # Deletes the folder also when the process fails before `close`.
        self._remove = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        settings: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": MEMORY,
            "threads": 2,
            "temp_directory": self._folder,
        }
        self._db = duckdb.connect(f"{self._folder}/listed.duckdb", config=settings)
        named = "image_uri VARCHAR, etag VARCHAR, size_bytes BIGINT"
        place = '"offset" BIGINT, length BIGINT, compression VARCHAR, problem VARCHAR'
        self._db.execute(f"CREATE TABLE named ({named})")
        self._db.execute(f"CREATE TABLE listed ({named}, {place})")
        self._db.execute(
            f"CREATE TABLE members ({named}, {place}, position BIGINT, target VARCHAR, hard BOOLEAN,"
            " wanted BOOLEAN)"
        )
        self._db.execute("CREATE TABLE planned (image_uri VARCHAR, etag VARCHAR, shard BIGINT)")
        self._replaced: np.ndarray | None = None

    def add(self, images: pa.Table) -> None:
        """Add images (NAMED). The same image may be added several times."""
        self._insert("named", images)

    def add_members(self, members: pa.Table, *, wanted: bool = True) -> None:
        """Add members of archives (MEMBERS).

        Args:
            members: each member once.
            wanted: False: they only tell the places of those images that are added by their chained URI.
        """
        self._insert("members", members.append_column("wanted", pa.repeat(wanted, len(members))))

    def deduplicate(
        self, limit: int | None, *, look_up: bool, access: Access = storage.OPEN
    ) -> None:
        """Keep one row for each image, and only the first `limit` images by URI.

        Args:
            limit: None keeps all images.
            look_up: ask the store for the missing ETags. An image that does not exist stays without one.
            access: what may be asked for.
        """
        settle_members(self._db)
        first = "" if limit is None else f"ORDER BY {_ORDER} LIMIT {limit}"
        no_place = ", ".join(f'NULL AS "{field.name}"' for field in PLACE)
        self._db.execute(
            f"""CREATE TABLE once AS FROM (
            SELECT image_uri, max(etag) AS etag, max(size_bytes) AS size_bytes, {no_place}
            FROM named GROUP BY image_uri
            UNION ALL SELECT {_COLUMNS} FROM members) {first}"""
        )
        if look_up:
            # A chained URI without an ETag is no member of its archive: nothing could be looked up.
            missing = "etag IS NULL AND problem IS NULL AND NOT " + is_chained("image_uri")
            for batch in self._rows(f"SELECT * FROM once WHERE {missing}"):
                self._insert("listed", _with_etags(batch, access))
            self._db.execute(f"DELETE FROM once WHERE {missing}")
        self._db.execute("INSERT INTO listed SELECT * FROM once")
        for table in ("named", "members", "once"):
            self._db.execute(f"DROP TABLE {table}")

    def size(self) -> tuple[int, int]:
        """Return the number of images and the sum of the known sizes in bytes."""
        return self._size("listed")

    def first(self, count: int) -> pa.Table:
        """Return the first `count` images (LISTED), in the order of a plan."""
        query = f"SELECT * FROM listed ORDER BY {_ORDER} LIMIT {count}"
        return pa.concat_tables([LISTED.empty_table(), *self._rows(query)])

    def add_planned(self, planned: pa.Table) -> None:
        """Add rows of a plan (`schema.PLAN`), shard by shard. Each row must be added only once."""
        self.next_shard = pc.max(planned["shard"]).as_py() + 1
        self._insert("planned", planned.select(["image_uri", "etag", "shard"]))

    def new(self) -> Iterator[pa.Table]:
        """Yield the images (LISTED) that are not planned with their present ETag, in the order of a plan.

        A table has 50,000 images.
        """
        return self._rows(
            f"SELECT l.* FROM listed l ANTI JOIN planned p ON {_SAME_IMAGE} ORDER BY {_ORDER}"
        )

    def new_size(self) -> tuple[int, int]:
        """Return the number of the images that are not planned and the sum of their known sizes in bytes."""
        return self._size(f"listed l ANTI JOIN planned p ON {_SAME_IMAGE}")

    def shards(self) -> set[int]:
        """Return the numbers of the shards that hold one of these images with its present ETag."""
        query = f"SELECT DISTINCT shard FROM listed l JOIN planned p ON {_SAME_IMAGE}"
        return {int(shard) for (shard,) in self._db.execute(query).fetchall()}

    def replaced(self, rows: pa.Table) -> list[bool]:
        """Return for each row whether a later shard plans another version of its image.

        The first call reads the plan; images that are planned later are not seen.

        Args:
            rows: has the columns image_uri and shard.
        """
        if self._replaced is None:
            query = """SELECT hash(image_uri, shard) AS key FROM (
                SELECT *, max(shard) OVER image AS last, arg_max(etag, shard) OVER image AS newest
                FROM planned WINDOW image AS (PARTITION BY image_uri))
                WHERE shard < last AND etag IS DISTINCT FROM newest ORDER BY key"""
            self._replaced = np.asarray(self._db.execute(query).fetchnumpy()["key"])
        self._db.register("rows", rows.select(["image_uri", "shard"]))
        keys = self._db.execute("SELECT hash(image_uri, shard) AS key FROM rows").fetchnumpy()
        self._db.unregister("rows")
        found: list[bool] = np.isin(keys["key"], self._replaced).tolist()
        return found

    def planned_again(self) -> set[int]:
        """Return the shards with an image that an earlier shard has too, with the same ETag."""
        query = """SELECT DISTINCT shard FROM (
            SELECT shard, min(shard) OVER (PARTITION BY image_uri, etag) AS first FROM planned)
            WHERE shard > first"""
        return {int(shard) for (shard,) in self._db.execute(query).fetchall()}

    def add_bad(self, rows: pa.Table) -> None:
        """Add rows of a run that are not `ok`.

        Args:
            rows: columns image_uri, etag, status, shard, and `retried`: whether the shard is a retry's.
        """
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS bad"
            " (image_uri VARCHAR, etag VARCHAR, status VARCHAR, shard BIGINT, retried BOOLEAN)"
        )
        self._insert("bad", rows)

    def to_retry(self, statuses: Sequence[str], *, again: bool) -> tuple[pa.Table, int]:
        """Select the images to score again: named, and their newest row, in `add_bad`, has such a status.

        An image that a later generation plans is not among them: it has a newer row, or will get one.

        Args:
            statuses: the statuses of --retry.
            again: include the images that failed alike in `TRIES` retry generations.

        Returns:
            The images (LISTED) in the order of a plan, and the number of images that are left alone.
        """
        self._db.execute(
            f"""CREATE OR REPLACE TEMP TABLE unfinished AS
            SELECT l.*, b.alike FROM listed l JOIN (
                SELECT *, retried AND count(*) FILTER (retried) OVER tries = {TRIES}
                    AND min(status) OVER tries = max(status) OVER tries AS alike
                FROM bad
                WINDOW tries AS (PARTITION BY image_uri, etag ORDER BY shard
                    ROWS {TRIES - 1} PRECEDING)) b
            ON l.image_uri = b.image_uri AND l.etag IS NOT DISTINCT FROM b.etag
            WHERE list_contains($1, b.status) AND NOT EXISTS
                (FROM planned p WHERE p.image_uri = b.image_uri AND p.shard > b.shard)""",
            [list(statuses)],
        )
        alone = "false" if again else "alike"
        left = self._db.execute(f"SELECT count(*) FROM unfinished WHERE {alone}").fetchall()
        images = [LISTED.empty_table()]
        images += self._rows(
            f"SELECT {_COLUMNS} FROM unfinished WHERE NOT {alone} ORDER BY {_ORDER}"
        )
        return pa.concat_tables(images), int(left[0][0])

    def superseded(self, done: Collection[int], first_shard: int) -> dict[int, int]:
        """Count the rows of each shard whose image has a row in a later shard too.

        Args:
            done: the shards of a run that exist; the others do not count.
            first_shard: the first shard that can hold an image of an earlier shard.
        """
        self._db.execute("CREATE OR REPLACE TEMP TABLE done (shard BIGINT)")
        self._insert("done", pa.table({"shard": pa.array(sorted(done), pa.int64())}))
        self._db.execute(
            f"""CREATE OR REPLACE TEMP TABLE superseded AS SELECT image_uri, shard FROM (
                SELECT image_uri, shard, max(shard) OVER (PARTITION BY image_uri) AS newest
                FROM planned SEMI JOIN done USING (shard)
                WHERE image_uri IN (SELECT image_uri FROM planned WHERE shard >= {first_shard}))
            WHERE shard < newest"""
        )
        rows = self._db.execute("SELECT shard, count(*) FROM superseded GROUP BY shard").fetchall()
        return {int(shard): int(count) for shard, count in rows}

    def superseded_images(self, shard: int) -> list[str]:
        """Return the URIs of the rows of a shard that `superseded` counted last."""
        query = "SELECT image_uri FROM superseded WHERE shard = $1"
        return [str(uri) for (uri,) in self._db.execute(query, [shard]).fetchall()]

    def close(self) -> None:
        """Close the database and delete its file."""
        self._db.close()
        self._remove()

    def _size(self, images: str) -> tuple[int, int]:
        query = f"SELECT count(*), coalesce(sum(size_bytes), 0)::BIGINT FROM {images}"
        ((count, size),) = self._db.execute(query).fetchall()
        return int(count), int(size)

    def _insert(self, table: str, rows: pa.Table) -> None:
        self._db.register("rows", rows)
        self._db.execute(f"INSERT INTO {table} SELECT * FROM rows")
        self._db.unregister("rows")

    def _rows(self, query: str) -> Iterator[pa.Table]:
        """Yield the result of a query. It goes through a file: DuckDB keeps a sorted result in memory."""
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            path = Path(folder) / "rows.parquet"
            self._db.execute(f"COPY ({query}) TO '{path}' (FORMAT parquet, ROW_GROUP_SIZE 50000)")
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE):
                    yield pa.Table.from_batches([batch]).cast(LISTED)


def _with_etags(images: pa.Table, access: Access) -> pa.Table:
    uris = images["image_uri"].to_pylist()
    answers = in_threads(partial(_stat_or_none, access=access), uris, threads=_LOOK_UPS_AT_ONCE)
    columns = [images["image_uri"], [etag for etag, _ in answers], [size for _, size in answers]]
    return pa.table([*columns, *(images[field.name] for field in PLACE)], schema=LISTED)


def _stat_or_none(uri: str, access: Access) -> tuple[str | None, int | None]:
    try:
        info = storage.stat(uri, access=access)
    except StorageError:
        # The image is planned all the same. The worker that reads it writes the status and the cause.
        return None, None
    return info.etag or None, info.size if info.etag else None
