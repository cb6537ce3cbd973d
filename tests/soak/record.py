"""Looks at scored/ with a client that the faults do not touch, and compares its rows."""

from __future__ import annotations

import contextlib
import io
import threading
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

BOX_TOLERANCE = 0.05
"""Pixels. A batch is as long as its block was, a convolution sums in an order that depends on that, and the
last bits of a float32 follow. What a wrong image or a lost proposal changes is whole boxes."""
SCORE_TOLERANCE = 1e-4
_CORNERS = ("x_min", "y_min", "x_max", "y_max")

Row = dict[str, Any]


class Watch:
    """Lists a prefix again and again, and remembers every ETag and every shard that changed or disappeared.

    Args:
        client: a client of boto3 that goes straight to the server.
        bucket, prefix: the place of the shards.
    """

    def __init__(self, client: Any, bucket: str, prefix: str) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = prefix
        self.etags: dict[str, str] = {}
        self.violations: list[str] = []

    @contextlib.contextmanager
    def watching(self, every_s: float = 1.0) -> Iterator[Watch]:
        """From a thread, and once more at the end."""
        done = threading.Event()

        def look() -> None:
            while not done.wait(every_s):
                self.look()

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield self
        finally:
            done.set()
            thread.join()
            self.look()

    def look(self) -> None:
        """Once."""
        now = {key: etag for key, etag in self._list() if key.endswith(".parquet")}
        for key, etag in self.etags.items():
            if now.get(key) != etag:
                self.violations.append(f"{key}: was {etag}, is {now.get(key)}")
        self.etags |= now

    def rows(self) -> list[Row]:
        """The rows of all shards."""
        tables = [
            pq.read_table(
                io.BytesIO(self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read())
            )
            for key in sorted(self.etags)
        ]
        return pa.concat_tables(tables).to_pylist() if tables else []

    def _list(self) -> Iterator[tuple[str, str]]:
        pages = self._client.get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix):
            for item in page.get("Contents", ()):
                yield item["Key"], item["ETag"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """What is wrong with the rows of a run."""

    missing: int
    twice: int
    foreign: int
    not_ok: int
    different: int
    largest_px: float
    """By which a coordinate differs, of images with the same boxes."""

    def violations(self) -> list[str]:
        """One sentence each."""
        names = ("missing", "twice", "foreign", "not_ok", "different")
        return [f"{getattr(self, name)} images {name}" for name in names if getattr(self, name)]


def compare(rows: list[Row], images: Collection[str], expected: Mapping[str, Row]) -> Counts:
    """Compare the rows of scored/ with the images that were to be scored and with an undisturbed run.

    An image that was tried again has a row in each of several generations. Its newest row counts.
    """
    found = {row["image_uri"]: row for row in sorted(rows, key=_generation)}
    in_one = Counter((row["image_uri"], _generation(row)) for row in rows)
    good = Counter(row["image_uri"] for row in rows if row["status"] == "ok")
    twice = {uri for (uri, _), count in in_one.items() if count > 1}
    twice |= {uri for uri, count in good.items() if count > 1}
    pairs = [(row, expected[uri]) for uri, row in found.items() if uri in expected]
    same = [pair for pair in pairs if same_detections(*pair)]
    return Counts(
        missing=len(set(images) - found.keys()),
        twice=len(twice),
        foreign=len(found.keys() - set(images)),
        not_ok=sum(row["status"] != "ok" for row in found.values()),
        different=len(pairs) - len(same),
        largest_px=max((_distance(*pair) for pair in same), default=0.0),
    )


def _generation(row: Row) -> int:
    return row.get("generation") or 1


def same_detections(row: Row, other: Row) -> bool:
    """Same status, and the same boxes in the same order, within the tolerances."""
    boxes, others = row["detections"], other["detections"]
    if row["status"] != other["status"] or (boxes is None) != (others is None):
        return False
    if boxes is None or others is None:
        return True
    return len(boxes) == len(others) and all(map(_same_box, boxes, others))


def _distance(row: Row, other: Row) -> float:
    boxes = zip(row["detections"] or (), other["detections"] or (), strict=True)
    return max((abs(a[name] - b[name]) for a, b in boxes for name in _CORNERS), default=0.0)


def _same_box(box: dict[str, Any], other: dict[str, Any]) -> bool:
    return (
        box["label"] == other["label"]
        and abs(box["score"] - other["score"]) <= SCORE_TOLERANCE
        and all(abs(box[name] - other[name]) <= BOX_TOLERANCE for name in _CORNERS)
    )
