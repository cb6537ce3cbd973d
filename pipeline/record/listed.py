"""Compares the images that a command names with the planned images, in a DuckDB file on this machine's disk.

As Python objects, ten million keys with their ETags take a gigabyte of memory. DuckDB sorts and compares them
with at most `MEMORY`; the rest lies on the disk, about 60 bytes a key while the command runs.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.runtime.prefetch import in_threads
from pipeline.storage import NAMED, StorageError

MEMORY = "512MB"
_ROWS_AT_ONCE = 50_000
_LOOK_UPS_AT_ONCE = 32
_SAME = "l.image_uri = p.image_uri AND l.etag IS NOT DISTINCT FROM p.etag"


class ListedImages:
    """The images that a command names (`storage.NAMED`), and which of them are planned.

    Call `add` for all images, then `deduplicate` once, then `add_planned`. `close` deletes the file.
    """

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="listed-")
        # Deletes the folder also when the process fails before `close`.
        self._remove = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        settings: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": MEMORY,
            "threads": 2,
            "temp_directory": self._folder,
        }
        self._db = duckdb.connect(f"{self._folder}/listed.duckdb", config=settings)
        for name in ("named", "listed"):
            self._db.execute(
                f"CREATE TABLE {name} (image_uri VARCHAR, etag VARCHAR, size_bytes BIGINT)"
            )
        self._db.execute("CREATE TABLE planned (image_uri VARCHAR, etag VARCHAR, shard BIGINT)")

    def add(self, images: pa.Table) -> None:
        """Add images (NAMED). The same image may be added several times."""
        self._insert("named", images)

    def deduplicate(self, limit: int | None, *, look_up: bool) -> None:
        """Keep one row for each image, and only the first `limit` images by URI.

        Args:
            limit: None keeps all images.
            look_up: ask the store for the missing ETags. An image that does not exist stays without one.
        """
        first = "" if limit is None else f"ORDER BY image_uri LIMIT {limit}"
        self._db.execute(
            f"""CREATE TABLE once AS
            SELECT image_uri, max(etag) AS etag, max(size_bytes) AS size_bytes
            FROM named GROUP BY image_uri {first}"""
        )
        if look_up:
            for batch in self._rows("SELECT * FROM once WHERE etag IS NULL"):
                self._insert("listed", _looked_up(batch))
            self._db.execute("DELETE FROM once WHERE etag IS NULL")
        self._db.execute("INSERT INTO listed SELECT * FROM once")
        self._db.execute("DROP TABLE named")
        self._db.execute("DROP TABLE once")

    def size(self) -> tuple[int, int]:
        """Return the number of images and the sum of the known sizes in bytes."""
        return self._size("listed")

    def first(self, count: int) -> pa.Table:
        """Return the first `count` images by URI (NAMED)."""
        query = f"SELECT * FROM listed ORDER BY image_uri LIMIT {count}"
        return pa.concat_tables([NAMED.empty_table(), *self._rows(query)])

    def add_planned(self, planned: pa.Table) -> None:
        """Add rows of a plan (`schema.PLAN`). Each row must be added only once."""
        self._insert("planned", planned.select(["image_uri", "etag", "shard"]))

    def new(self) -> Iterator[pa.Table]:
        """Yield the images (NAMED) that are not planned with their present ETag, by URI, 50,000 at a time."""
        return self._rows(f"SELECT l.* FROM listed l ANTI JOIN planned p ON {_SAME} ORDER BY 1")

    def new_size(self) -> tuple[int, int]:
        """Return the number of the images that are not planned and the sum of their known sizes in bytes."""
        return self._size(f"listed l ANTI JOIN planned p ON {_SAME}")

    def shards(self) -> set[int]:
        """Return the numbers of the shards that hold one of these images with its present ETag."""
        query = f"SELECT DISTINCT shard FROM listed l JOIN planned p ON {_SAME}"
        return {int(shard) for (shard,) in self._db.execute(query).fetchall()}

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
                    yield pa.Table.from_batches([batch]).cast(NAMED)


def _looked_up(images: pa.Table) -> pa.Table:
    answers = in_threads(_look_up, images["image_uri"].to_pylist(), threads=_LOOK_UPS_AT_ONCE)
    return pa.table(
        [images["image_uri"], [etag for etag, _ in answers], [size for _, size in answers]],
        schema=NAMED,
    )


def _look_up(uri: str) -> tuple[str | None, int | None]:
    try:
        info = storage.stat(uri)
    except StorageError:
        # The image is planned all the same. The worker that reads it writes the status and the cause.
        return None, None
    return info.etag or None, info.size if info.etag else None
