"""What a person watches while training runs: lines of the log, and under the output TensorBoard files and
validation pictures.

<output>/tensorboard/events.*            one file a validation; TensorBoard reads all of a folder
<output>/validation/<step>/*.png|jpg     see `pipeline.training.validation.draw_validation`
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from tensorboardX import SummaryWriter

from pipeline import storage
from pipeline.runtime.progress import SECONDS_BETWEEN_LINES

logger = logging.getLogger(__name__)

NAMES = ("loss", "classification", "localization", "learning_rate", "foreground")
RPN_NAMES = ("loss_objectness", "loss_rpn_box")
"""Where the model has an RPN. And `seconds` of a step, and the share of them that waited for data."""


class ProgressLines:
    """Steps as lines of the log, one every `SECONDS_BETWEEN_LINES`, with the means since the last one."""

    def __init__(self, num_iterations: int, batch_size: int) -> None:
        self.num_iterations = num_iterations
        self.batch_size = batch_size
        self.rows: list[dict[str, float]] = []
        self.since = time.monotonic()

    def step(self, row: dict[str, float]) -> None:
        """Take a step's row of the history."""
        self.rows.append(row)
        elapsed = time.monotonic() - self.since
        if elapsed < SECONDS_BETWEEN_LINES and row["iteration"] < self.num_iterations:
            return
        mean = {key: sum(r[key] for r in self.rows) / len(self.rows) for key in row}
        speed = len(self.rows) / max(elapsed, 1e-9)
        of_rpn = "".join(
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
            of_rpn,
            row["learning_rate"],
            100 * mean["foreground"],
            speed * self.batch_size,
            100 * mean["waited"] * speed,
            (self.num_iterations - row["iteration"]) / speed,
        )
        self.rows, self.since = [], time.monotonic()


class TrainingBoard:
    """Rank 0's. Events are gathered on this machine and put a file at a time: object stores cannot append."""

    def __init__(self, output: str, first_step: int) -> None:
        self._output = output
        self._folder = tempfile.TemporaryDirectory(prefix="tensorboard-")
        # What an attempt that died had written beyond the step that this one goes on from is hidden.
        purge = {"purge_step": first_step + 1} if first_step else {}
        self._writer = SummaryWriter(self._folder.name, filename_suffix=f".{first_step}", **purge)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._writer.close()
        self._folder.cleanup()

    def step(self, row: Mapping[str, float]) -> None:
        """Take a step's row of the history."""
        for name in (*NAMES, *(name for name in RPN_NAMES if name in row)):
            self._writer.add_scalar(f"train/{name}", row[name], int(row["iteration"]))
        seconds = row["seconds"]
        self._writer.add_scalar("speed/step_seconds", seconds, int(row["iteration"]))
        share = row["waited"] / max(seconds, 1e-9)
        self._writer.add_scalar("speed/waiting_for_data", share, int(row["iteration"]))

    def validated(
        self, iteration: int, metrics: Mapping[str, Any], pictures: Mapping[str, bytes]
    ) -> None:
        """Take a validation's metrics and put its pictures."""
        self._writer.add_scalar("validation/map", metrics["val_map"], iteration)
        for name, ap in metrics["val_ap"].items():
            if ap is not None:
                self._writer.add_scalar(f"validation/ap/{name}", ap, iteration)
        for name, data in pictures.items():
            uri = storage.join(self._output, "validation", f"{iteration:06d}", name)
            storage.write_bytes(uri, data)

    def save(self, iteration: int) -> None:
        """Put the events since the last time."""
        self._writer.close()  # its flush() does not wait for its own queue
        for file in Path(self._folder.name).iterdir():
            uri = storage.join(self._output, "tensorboard", file.name)
            storage.write_bytes(uri, file.read_bytes())
            file.unlink()
        self._writer = SummaryWriter(self._folder.name, filename_suffix=f".{iteration}")
