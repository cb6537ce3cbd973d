"""What a person watches while training runs: TensorBoard files and validation pictures under the output.

<output>/tensorboard/events.*            one file a validation; TensorBoard reads all of a folder
<output>/validation/<step>/*.png|jpg     see `pipeline.training.validation_pictures`
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from tensorboardX import SummaryWriter

from pipeline import storage

NAMES = ("loss", "classification", "localization", "learning_rate", "foreground")
RPN_NAMES = ("loss_objectness", "loss_rpn_box")
"""Where the model has an RPN. And `seconds` of a step, and the share of them that waited for data."""


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
