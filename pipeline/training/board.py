"""Show progress while training runs: log lines, TensorBoard files and validation pictures.

<output>/tensorboard/events.*            one file per checkpoint; TensorBoard reads all files of a folder
<output>/validation/<step>/*.png|jpg     see `pipeline.training.validation.draw_validation`
"""

from __future__ import annotations

import logging
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol, Self

from tensorboardX import SummaryWriter

from pipeline import storage
from pipeline.errors import one_line
from pipeline.runtime.progress import SECONDS_BETWEEN_LINES

logger = logging.getLogger(__name__)

CLOSE_S = 60.0
"""Time that the boards get at the end of a training for what they have not sent yet."""
_CLOSE_AFTER_FAILURE_S = 5.0
NAMES = ("loss", "classification", "localization", "learning_rate", "foreground")
RPN_NAMES = ("loss_objectness", "loss_rpn_box")
"""Columns of the history that TensorBoard shows under train/. A row has `RPN_NAMES` if the model has an
RPN."""


def tag_of(name: str) -> str:
    """Give the name of a class as TensorBoard takes it. The writer logs a warning for each other name."""
    return re.sub(r"[^-/\w.]", "_", name)


class ProgressLines:
    """Log one line every `SECONDS_BETWEEN_LINES` seconds, with means over the steps since the last line.

    Speed is that of the steps alone. The time left counts the validations to come too, each as long as the
    last one.

    Args:
        num_iterations: steps of the whole training.
        batch_size: images of a step.
        validate_every: steps between validations; there is one after the last step too.
    """

    def __init__(self, num_iterations: int, batch_size: int, validate_every: int) -> None:
        self.num_iterations = num_iterations
        self.batch_size = batch_size
        self.validate_every = validate_every
        self.rows: list[dict[str, float]] = []
        self.since = time.monotonic()
        self.validation_s = 0.0

    def validated(self, seconds: float) -> None:
        """Take note of the time of a validation and its checkpoint, in which no step was taken."""
        self.validation_s = seconds
        self.since += seconds

    def seconds_left(self, iteration: int, speed: float) -> float:
        """Estimate the seconds until the last validation ends.

        Args:
            iteration: steps that are done. A validation after the last of them is still to come.
            speed: steps a second.
        """
        every = self.validate_every
        validations = -(-self.num_iterations // every) - (iteration - 1) // every
        return (self.num_iterations - iteration) / speed + validations * self.validation_s

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
            self.seconds_left(int(row["iteration"]), speed),
        )
        self.rows, self.since = [], time.monotonic()


class Board(Protocol):
    """Something that shows a training. Each call may fail, for any reason."""

    def step(self, row: Mapping[str, float]) -> None: ...
    def add_validation(
        self, iteration: int, metrics: Mapping[str, Any], pictures: Mapping[str, bytes]
    ) -> None: ...
    def save(self, iteration: int) -> None: ...
    def close(self, failed: bool) -> None: ...


class Boards:
    """Shows a training on all boards, in one thread. Only rank 0 has boards; elsewhere it does nothing.

    Checkpoints come first: no step and no checkpoint waits for a board, and a failure of a board is a
    warning. The training is complete without it.

    Args:
        makers: the name of each board, for warnings, and a function that makes it.
    """

    def __init__(self, makers: Mapping[str, Callable[[], Board]]) -> None:
        self._boards: dict[str, Board] = {}
        self._said: dict[str, str] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="boards") if makers else None
        self._last: Future[None] | None = None
        for name, make in makers.items():
            self._submit(self._make, name, make)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._submit(self._each, lambda board: board.close(kind is not None))
        if self._thread is None or self._last is None:
            return
        seconds = CLOSE_S if kind is None else _CLOSE_AFTER_FAILURE_S
        if not wait([self._last], seconds).done:
            logger.warning(
                "TensorBoard or MLflow did not take the last numbers within %g s; the checkpoints are whole",
                seconds,
            )
        self._thread.shutdown(wait=False, cancel_futures=True)

    def step(self, row: Mapping[str, float]) -> None:
        """Show one step: its row of the history."""
        self._submit(self._each, lambda board: board.step(row))

    def add_validation(
        self,
        iteration: int,
        metrics: Mapping[str, Any],
        draw: Callable[[], Mapping[str, bytes]],
    ) -> None:
        """Show a validation: its metrics, and the pictures that `draw` makes."""
        self._submit(self._show_validation, iteration, metrics, draw)

    def save(self, iteration: int) -> None:
        """Send what was collected since the last call. Call it after the checkpoint of the iteration."""
        self._submit(self._each, lambda board: board.save(iteration))

    def _submit(self, call: Callable[..., None], *arguments: Any) -> None:
        if self._thread is not None:
            self._last = self._thread.submit(call, *arguments)

    def _make(self, name: str, make: Callable[[], Board]) -> None:
        with self._warned(name):
            self._boards[name] = make()

    def _show_validation(
        self,
        iteration: int,
        metrics: Mapping[str, Any],
        draw: Callable[[], Mapping[str, bytes]],
    ) -> None:
        pictures: Mapping[str, bytes] = {}
        with self._warned("validation pictures"):
            pictures = draw()
        self._each(lambda board: board.add_validation(iteration, metrics, pictures))

    def _each(self, call: Callable[[Board], None]) -> None:
        for name, board in self._boards.items():
            with self._warned(name):
                call(board)

    def _warned(self, name: str) -> AbstractContextManager[None]:
        return failures_as_warnings(name, self._said)


@contextmanager
def failures_as_warnings(name: str, said: dict[str, str] | None = None) -> Iterator[None]:
    """Log an exception of what people only look at as a warning: the training is complete without it.

    Args:
        name: what failed.
        said: the last failure of each name. The same one is logged once.
    """
    try:
        yield
    except Exception as error:  # a board is a library and a server: anything may come
        cause = f"{type(error).__name__}: {one_line(error)}"
        if said is None or said.get(name) != cause:
            logger.warning("%s failed (%s); the training goes on without it", name, cause)
        if said is not None:
            said[name] = cause


class TrainingBoard:
    """Writes TensorBoard files and validation pictures.

    Events are collected on the local disk and uploaded as whole files, because object stores cannot append.
    """

    def __init__(self, output: str, first_step: int) -> None:
        self._output = output
        self._folder = tempfile.TemporaryDirectory(prefix="tensorboard-")
        # An attempt that failed may have written later steps than the one this run resumes at.
        # TensorBoard hides them.
        purge = {"purge_step": first_step + 1} if first_step else {}
        self._writer = SummaryWriter(self._folder.name, filename_suffix=f".{first_step}", **purge)

    def close(self, failed: bool) -> None:
        """Close the last file, and delete the folder with what was not uploaded."""
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

    def add_validation(
        self, iteration: int, metrics: Mapping[str, Any], pictures: Mapping[str, bytes]
    ) -> None:
        """Add the metrics of a validation, and upload its pictures."""
        self._writer.add_scalar("validation/map", metrics["val_map"], iteration)
        self._writer.add_scalar("validation/map50_95", metrics["val_map50_95"], iteration)
        for name, ap in metrics["val_ap"].items():
            if ap is not None:
                self._writer.add_scalar(f"validation/ap/{tag_of(name)}", ap, iteration)
        for name, data in pictures.items():
            uri = storage.join(self._output, "validation", f"{iteration:06d}", name)
            storage.write_bytes(uri, data)

    def save(self, iteration: int) -> None:
        """Upload the events since the last call that succeeded."""
        self._writer.close()  # flush() does not wait until its queue is empty
        files = sorted(Path(self._folder.name).iterdir())
        self._writer = SummaryWriter(self._folder.name, filename_suffix=f".{iteration}")
        for file in files:
            uri = storage.join(self._output, "tensorboard", file.name)
            storage.write_bytes(uri, file.read_bytes())
            file.unlink()
