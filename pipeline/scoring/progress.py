"""Counts the results of a scoring run for its log and for Prometheus; stops a run with too many failures."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Mapping
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
from ray.util import metrics

from pipeline.config import ScoreConfig
from pipeline.errors import JobError
from pipeline.runtime.progress import Progress

_FROM_THE_STORE = ("denied", "unreadable")
"""Statuses that mean that the store did not give the image. It may do so later."""
_LAST = 200
"""The number of latest images that the outage check counts. It is smaller than a shard, so an outage stops
the run before one of its shards is whole."""


class ScoreProgress:
    """Counts result rows as they come.

    Args:
        config: gives --max-failures and --max-unreachable.
        run_id: a tag of the metrics.
        total: the number of images to score.
        workers: the largest number of Detectors.
    """

    def __init__(self, config: ScoreConfig, *, run_id: str, total: int, workers: int) -> None:
        self._config = config
        self._total = total
        self._workers = workers
        self._started = time.monotonic()
        self._shown = Progress("scoring", total, "images")
        self._causes: Counter[str] = Counter()
        self._last: deque[tuple[bool, str]] = deque(maxlen=_LAST)
        self._busy_s = 0.0
        self.statuses: Counter[str] = Counter()
        self.bytes_read = 0
        self._images = metrics.Counter(
            "detection_images", "Images scored, by status", tag_keys=("run_id", "status")
        )
        self._gauges = {
            name: metrics.Gauge(f"detection_{name}", description, tag_keys=("run_id",))
            for name, description in {
                "images_per_second": "Images scored per second since this command started",
                "images_left": "Images that this command has still to score",
                "detector_busy_share": "Busy time of the Detectors, as a share of the time they had",
            }.items()
        }
        self._tags = {"run_id": run_id}

    def __enter__(self) -> Self:
        self._shown.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._shown.__exit__(*error)

    @property
    def busy_share(self) -> float:
        """Busy time of the Detectors, as a share of the time that the maximum number of Detectors had."""
        seconds = time.monotonic() - self._started
        return min(1.0, self._busy_s / (seconds * self._workers)) if seconds else 0.0

    def check(self, rows: pa.Table) -> None:
        """Check result rows before they are written.

        Raises:
            JobError: too many images of this run failed, or the store did not give too many of the last ones.
        """
        failed = rows.filter(pc.not_equal(rows["status"], "ok"))
        for status, error in zip(
            failed["status"].to_pylist(), failed["error"].to_pylist(), strict=True
        ):
            self._causes[status] += 1
            self._last.append((status in _FROM_THE_STORE, error or ""))
        self._last.extend([(False, "")] * (rows.num_rows - failed.num_rows))
        unreachable = [error for from_store, error in self._last if from_store]
        if len(self._last) == _LAST and len(unreachable) > self._config.max_unreachable * _LAST:
            raise JobError(
                f"the store gave only {_LAST - len(unreachable)} of the last {_LAST} images "
                f"({unreachable[-1]}). Shards that are not whole were not written. When the store works "
                "again, run the same command again. If these images stay unreadable, add --max-unreachable 1"
            )
        if self._causes.total() > self._config.max_failures * self._total:
            raise JobError(
                f"{self._causes.total()} of {self._total} images are not ok "
                f"({counts(dict(self._causes.most_common()))}), more than --max-failures "
                f"{self._config.max_failures}. The last error: {failed['error'][-1].as_py()}"
            )

    def count(self, rows: pa.Table) -> None:
        """Count rows that were passed on to their shards, and show the progress."""
        new = Counter(rows["status"].to_pylist())
        self.statuses.update(new)
        self.bytes_read += pc.sum(rows["size_bytes"]).as_py() or 0
        self._busy_s += pc.sum(rows["detect_s"]).as_py() or 0.0
        for status, number in new.items():
            self._images.inc(number, {**self._tags, "status": status})
        now, done = time.monotonic(), self.statuses.total()
        rate = done / max(now - self._started, 1e-9)
        values = {
            "images_per_second": rate,
            "images_left": self._total - done,
            "detector_busy_share": self.busy_share,
        }
        for name, value in values.items():
            self._gauges[name].set(value, self._tags)
        busy = f"Detectors busy {100 * self.busy_share:.0f}%"
        self._shown.update(done, f"{busy}; {counts(dict(self.statuses.most_common()))}")


def counts(statuses: Mapping[str, int]) -> str:
    """Format counts as in `ok 450, missing 10`."""
    return ", ".join(f"{status} {count}" for status, count in statuses.items())
