"""How far is it, as plain lines in a job's log."""

from __future__ import annotations

import logging
import time

from pipeline.progress import SECONDS_BETWEEN_LINES

logger = logging.getLogger(__name__)


class ProgressLines:
    """Progress as plain lines, one every `SECONDS_BETWEEN_LINES`."""

    def __init__(self, num_iterations: int, batch_size: int) -> None:
        self.num_iterations = num_iterations
        self.batch_size = batch_size
        self.rows: list[dict[str, float]] = []
        self.since = time.monotonic()

    def step(self, row: dict[str, float]) -> None:
        """Take a step's row."""
        self.rows.append(row)
        elapsed = time.monotonic() - self.since
        if elapsed < SECONDS_BETWEEN_LINES and row["iteration"] < self.num_iterations:
            return
        mean = {key: sum(r[key] for r in self.rows) / len(self.rows) for key in row}
        speed = len(self.rows) / max(elapsed, 1e-9)
        own = "".join(
            f", {name} {mean[key]:.3f}"
            for name, key in (("objectness", "loss_objectness"), ("anchors", "loss_rpn_box"))
            if key in mean
        )
        logger.info(
            "step %d/%d  loss %.3f (class %.3f, box %.3f%s)  lr %.2g  foreground %.0f%%"
            "  %.1f images/s  waiting for data %.0f%%  %.0f s left",
            row["iteration"],
            self.num_iterations,
            mean["loss"],
            mean["classification"],
            mean["localization"],
            own,
            row["learning_rate"],
            100 * mean["foreground"],
            speed * self.batch_size,
            100 * mean["waited"] * speed,
            (self.num_iterations - row["iteration"]) / speed,
        )
        self.rows, self.since = [], time.monotonic()
