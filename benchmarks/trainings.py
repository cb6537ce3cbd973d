"""Runs jobs as a person would, for benchmarks that can be stopped and continued."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from benchmarks import CHECKOUT
from demo import processes
from pipeline import storage
from pipeline.errors import UserError


def train_or_continue(
    flags: Sequence[str], *, folder: Path, model: Path, what: str = "a training"
) -> None:
    """Train, or continue a training that was stopped. A finished training is left as it is.

    Args:
        flags: of `jobs/train.py`; they name `model` as --output.
        folder: gets command.json and train.log.
        model: the output of the training.
        what: names the training in an error.

    Raises:
        UserError: the folder holds a training with other flags.
        processes.CommandError: the training failed; its output is in train.log.
    """
    begin(flags, folder, what)
    if not (model / "result.json").exists():
        command = [sys.executable, "jobs/train.py", *flags]
        processes.run(command, folder / "train.log", cwd=CHECKOUT)


def begin(flags: Sequence[str], folder: Path, what: str) -> None:
    """Keep the flags of a training in command.json, and make its folder.

    Raises:
        UserError: the folder holds a training with other flags.
    """
    begun = folder / "command.json"
    if begun.exists() and json.loads(begun.read_text()) != list(flags):
        raise UserError(
            f"--output {folder}",
            f"holds {what} with other flags ({begun})",
            "Give another --output, or the flags of the earlier command.",
        )
    folder.mkdir(parents=True, exist_ok=True)
    begun.write_text(json.dumps(list(flags)))


def run_once(job: str, flags: Sequence[str], log: Path) -> None:
    """Run `jobs/<job>.py`, unless an earlier call has done it: then its log exists.

    Raises:
        processes.CommandError: the job failed; its output is in <log>.part.
    """
    if not log.exists():
        part = log.with_name(f"{log.name}.part")
        processes.run([sys.executable, f"jobs/{job}.py", *flags], part, cwd=CHECKOUT)
        part.rename(log)


class Trial(Protocol):
    """A training of a benchmark that makes many."""

    @property
    def name(self) -> str:
        """The name of the data set."""

    @property
    def folder(self) -> Path:
        """Gets command.json and train.log."""

    @property
    def model(self) -> Path:
        """The output of the training."""


def train_trial(flags: Sequence[str], trial: Trial) -> None:
    """Train, or continue a training that was stopped; see `train_or_continue`."""
    what = f"a training of {trial.name}"
    train_or_continue(flags, folder=trial.folder, model=trial.model, what=what)


def weights_of(given: str) -> str:
    """Return --weights for a job that runs in another folder: a local file gets its whole path."""
    return storage.absolute(given) if Path(given).exists() else given


def name_of(data: str) -> str:
    """Return the name of a data set: the last part of its URI."""
    return storage.basename(data.rstrip("/"))
