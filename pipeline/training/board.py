"""Show progress while training runs: log lines, TensorBoard files and validation pictures.

<output>/tensorboard/events.*            one file per checkpoint; TensorBoard reads all files of a folder
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
"""Columns of the history that TensorBoard shows under train/. A row has `RPN_NAMES` if the model has an
RPN."""


class ProgressLines:
    """Log one line every `SECONDS_BETWEEN_LINES` seconds, with means over the steps since the last line."""

    def __init__(self, num_iterations: int, batch_size: int) -> None:
        self.num_iterations = num_iterations
        self.batch_size = batch_size
        self.rows: list[dict[str, float]] = []
        self.since = time.monotonic()

    def step(self, row: dict[str, float]) -> None:
        """Add one step: its row of the history."""
        self.rows.append(row)
        elapsed = time.monotonic() - self.since
        if elapsed < SECONDS_BETWEEN_LINES and row["iteration"] < self.num_iterations:
            return
        mean = {key: sum(r[key] for r in self.rows) / len(self.rows) for key in row}
        speed = len(self.rows) / max(elapsed, 1e-9)
        rpn_losses = "".join(
            f", {name} {mean[key]:.3f}"
            for name, key in (("objectness", "loss_objectness"), ("anchor box", "loss_rpn_box"))
            if key in mean
        )
        logger.info(
            "step %d/%d  loss %.3f (class %.3f, box %.3f%s)  lr %.2g  foreground RoIs %.0f%%"
            "  %.1f images/s  waiting for data %.0f%%  %.0f s left",
            row["iteration"],
            self.num_iterations,
            mean["loss"],
            mean["classification"],
            mean["localization"],
            rpn_losses,
            row["learning_rate"],
            100 * mean["foreground"],
            speed * self.batch_size,
            100 * mean["waited"] * speed,
            (self.num_iterations - row["iteration"]) / speed,
        )
        self.rows, self.since = [], time.monotonic()


class TrainingBoard:
    """Write TensorBoard files and validation pictures. Only rank 0 has one.

    Events are collected on the local disk and uploaded as whole files, because object stores cannot append.
    """

    def __init__(self, output: str, first_step: int) -> None:
        self._output = output
        self._folder = tempfile.TemporaryDirectory(prefix="tensorboard-")
        # An attempt that failed may have written later steps than the one this run resumes at.
        # TensorBoard hides them.
        purge = {"purge_step": first_step + 1} if first_step else {}
        self._writer = SummaryWriter(self._folder.name, filename_suffix=f".{first_step}", **purge)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._writer.close()
        self._folder.cleanup()

    def step(self, row: Mapping[str, float]) -> None:
        """Add one step: its row of the history."""
        for name in (*NAMES, *(name for name in RPN_NAMES if name in row)):
            self._writer.add_scalar(f"train/{name}", row[name], int(row["iteration"]))
        seconds = row["seconds"]
        self._writer.add_scalar("speed/step_seconds", seconds, int(row["iteration"]))
        share = row["waited"] / max(seconds, 1e-9)
        self._writer.add_scalar("speed/waiting_for_data", share, int(row["iteration"]))

    def validated(
        self, iteration: int, metrics: Mapping[str, Any], pictures: Mapping[str, bytes]
    ) -> None:
        """Add the metrics of a validation, and upload its pictures."""
        self._writer.add_scalar("validation/map", metrics["val_map"], iteration)
        for name, ap in metrics["val_ap"].items():
            if ap is not None:
                self._writer.add_scalar(f"validation/ap/{name}", ap, iteration)
        for name, data in pictures.items():
            uri = storage.join(self._output, "validation", f"{iteration:06d}", name)
            storage.write_bytes(uri, data)

    def save(self, iteration: int) -> None:
        """Upload the events since the last call."""
        self._writer.close()  # flush() does not wait until its queue is empty
        for file in Path(self._folder.name).iterdir():
            uri = storage.join(self._output, "tensorboard", file.name)
            storage.write_bytes(uri, file.read_bytes())
            file.unlink()
        self._writer = SummaryWriter(self._folder.name, filename_suffix=f".{iteration}")
