"""Counts the results of a scoring run for its log and for Prometheus; stops a run with too many failures."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
from ray.util import metrics

from pipeline.config import ScoreConfig
from pipeline.errors import JobError
from pipeline.runtime.progress import Progress


class ScoreProgress:
    """Counts result rows as they come.

    Args:
        config: gives --max-failures.
        run_id: a tag of the metrics.
        total: the number of images to score.
        workers: the number of Detectors that there is room for; asked for again as nodes come and go.
        retried: shards whose images failed before. While the job runs, these do not count for --max-failures;
            `pipeline.scoring.account` counts the newest row of each image at the end.
        num_retried: the number of their images.
    """

    def __init__(
        self,
        config: ScoreConfig,
        *,
        run_id: str,
        total: int,
        workers: Callable[[], int],
        retried: Collection[int] = (),
        num_retried: int = 0,
    ) -> None:
        self._config = config
        self._total = total
        self._retried = pa.array(retried, pa.int64())
        self._num_new = total - num_retried
        self._workers = workers
        self._detector_s = 0.0
        self._started = self._counted = time.monotonic()
        self._progress = Progress("scoring", total, "images")
        self._causes: Counter[str] = Counter()
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
        self._progress.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._progress.__exit__(*error)

    @property
    def busy_share(self) -> float:
        """Busy time of the Detectors, as a share of the time that as many as there was room for had."""
        seconds = self._detector_s + (time.monotonic() - self._counted) * self._workers()
        return min(1.0, self._busy_s / seconds) if seconds else 0.0

    def check(self, rows: pa.Table) -> None:
        """Count result rows that are not `ok`, before they are written.

        Raises:
            JobError: too many of the images that this command scores for the first time are not ok.
        """
        failed = rows.filter(pc.not_equal(rows["status"], "ok"))
        failed = failed.filter(pc.invert(pc.is_in(failed["shard"], self._retried)))
        self._causes.update(failed["status"].to_pylist())
        if self._causes.total() > self._config.max_failures * self._num_new:
            raise JobError(
                f"{self._causes.total()} of {self._num_new} images are not ok "
                f"({counts(dict(self._causes.most_common()))}), more than --max-failures "
                f"{self._config.max_failures}. The last error: {failed['error'][-1].as_py()}. When the "
                "cause is removed, run the same command again"
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
        self._detector_s += (now - self._counted) * self._workers()
        self._counted = now
        rate = done / max(now - self._started, 1e-9)
        values = {
            "images_per_second": rate,
            "images_left": self._total - done,
            "detector_busy_share": self.busy_share,
        }
        for name, value in values.items():
            self._gauges[name].set(value, self._tags)
        busy = f"Detectors busy {100 * self.busy_share:.0f}%"
        self._progress.update(done, f"{busy}; {counts(dict(self.statuses.most_common()))}")


def counts(statuses: Mapping[str, int]) -> str:
    """Format counts as in `ok 450, missing 10`."""
    return ", ".join(f"{status} {count}" for status, count in statuses.items())
