"""The training loop as a plain call, in this process: what a resumed run and an early stop do.

Ray Train's functions for workers are replaced by ones that keep the last reported checkpoint. The tests of
`pipeline.train` run the same loop on Ray.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ray.train
import torch
from safetensors.torch import load_file

from pipeline.draw_scenes import draw_split
from pipeline.training import loop, worker
from pipeline.training.data import read_data
from pipeline.training.examples import Example
from pipeline.training.initial_weights import initial_model
from pipeline.training.job import TrainJob
from pipeline.training.plan import TrainPlan
from tests.pipeline.training_runs import config

PARTS = ("optimizer=adamw", "layer_decay=0.8", "ema_decay=0.9", "repeat_threshold=0.9")
"""Parts of a recipe that a resume could break; and crops, below."""


class Session:
    """What a worker sees of Ray Train: it keeps the last checkpoint, and may end after some steps."""

    def __init__(self, folder: Path, stop_at: int | None = None) -> None:
        self.folder, self.stop_at = folder, stop_at
        self.reports: list[dict[str, Any]] = []

    def report(self, metrics: dict[str, Any], *, checkpoint: Any, **options: Any) -> None:
        self.reports.append(metrics)
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.move(checkpoint.path, self.folder)
        if metrics["iteration"] == self.stop_at:
            raise InterruptedError

    def checkpoint(self) -> Any:
        return ray.train.Checkpoint(str(self.folder)) if self.folder.exists() else None


@pytest.fixture
def scenes(tmp_path: Path) -> str:
    draw_split(tmp_path / "scenes", "train", range(5), seed=0, size=(90, 110))
    draw_split(tmp_path / "scenes", "val", range(5, 7), seed=0, size=(90, 110))
    return str(tmp_path / "scenes")


@contextmanager
def session(monkeypatch: pytest.MonkeyPatch, made: Session) -> Iterator[Session]:
    context = SimpleNamespace(get_world_rank=lambda: 0, get_world_size=lambda: 1)
    with monkeypatch.context() as patch:
        patch.setattr("ray.get", lambda value: value)
        patch.setattr("ray.train.get_context", lambda: context)
        patch.setattr("ray.train.get_checkpoint", made.checkpoint)
        patch.setattr("ray.train.get_preemption_info", lambda: None)
        patch.setattr("ray.train.report", made.report)
        patch.setattr("ray.train.torch.prepare_model", lambda model, **options: model)
        yield made


def job(scenes: str, output: Path, **changes: Any) -> TrainJob:
    flags = config(scenes, str(output), **changes)
    training, validation = read_data(flags)
    assert validation is not None
    plan = TrainPlan.of(flags, training.classes).fitted(training.images)
    boxes = np.array([[0, 0, 40, 40], [20, 20, 70, 70], [40, 30, 100, 85]], np.float32)
    model = initial_model(plan.model, flags.weights, flags.seed, training.classes)
    return TrainJob(
        model=plan.model,
        solver=plan.solver,
        classes=training.classes,
        proposals=plan.proposals,
        num_iterations=plan.solver.num_iterations(len(training.images)),
        validate_every=flags.validate_every or 1,
        seed=flags.seed,
        provenance={"flags": {}},
        output=str(output),
        mlflow=None,
        examples=[Example(image, boxes) for image in training.images],
        validation=[Example(image, boxes) for image in validation.images],
        weights=model.state_dict(),
        listings=[],
    )


@pytest.mark.parametrize("parts", [(), PARTS], ids=["sgd", "all parts"])
def test_a_resumed_run_equals_an_undisturbed_one_bit_for_bit(
    scenes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: tuple[str, ...]
) -> None:
    settings = (*parts, "crop_jitter=0.7,1.5") if parts else ()
    made = job(scenes, tmp_path / "out", iterations=4, validate_every=2, set=settings)
    with session(monkeypatch, Session(tmp_path / "whole")):
        assert loop.train_loop({"job": made}) is None
    with session(monkeypatch, Session(tmp_path / "parts", stop_at=2)):
        with pytest.raises(InterruptedError):
            loop.train_loop({"job": made})
    with session(monkeypatch, Session(tmp_path / "parts")) as resumed:
        assert loop.train_loop({"job": made}) is None
    assert [report["iteration"] for report in resumed.reports] == [4]
    names = {path.name for path in (tmp_path / "whole").glob("*.safetensors")}
    assert ("unaveraged.safetensors" in names) == bool(parts)
    for name in names:
        whole, again = (load_file(tmp_path / run / name) for run in ("whole", "parts"))
        assert set(whole) == set(again)
        assert all(torch.equal(whole[key], again[key]) for key in whole), name


def test_patience_ends_a_run_at_the_same_step_after_a_resume(
    scenes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At such a rate no weight changes, so no validation is better than the first."""
    small = {"learning_rate": 1e-12, "validate_every": 1, "iterations": 9, "patience": 2}
    made = job(scenes, tmp_path / "out", **small)
    with session(monkeypatch, Session(tmp_path / "whole")) as whole:
        loop.train_loop({"job": made})
    assert [report["iteration"] for report in whole.reports] == [1, 2, 3]
    with session(monkeypatch, Session(tmp_path / "parts", stop_at=2)):
        with pytest.raises(InterruptedError):
            loop.train_loop({"job": made})
    with session(monkeypatch, Session(tmp_path / "parts")) as resumed:
        loop.train_loop({"job": made})
    assert [report["iteration"] for report in resumed.reports] == [3]
    with session(monkeypatch, Session(tmp_path / "parts")) as finished:
        loop.train_loop({"job": made})
    assert finished.reports == []  # it had stopped
    with session(monkeypatch, Session(tmp_path / "parts")) as longer:
        patient = replace(made, solver=replace(made.solver, patience=None))
        loop.train_loop({"job": patient})
    assert longer.reports[-1]["iteration"] == 9


def test_the_averaged_weights_are_validated(
    scenes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []

    def spy(model: Any) -> Any:
        seen.append(model.head.fc6.weight.detach().clone())
        return single_view(model)

    single_view = worker.single_view
    monkeypatch.setattr(worker, "single_view", spy)
    made = job(scenes, tmp_path / "out", iterations=2, validate_every=2, set=("ema_decay=0.9",))
    with session(monkeypatch, Session(tmp_path / "run")):
        loop.train_loop({"job": made})
    saved = load_file(tmp_path / "run" / "model.safetensors")["head.fc6.weight"]
    assert torch.equal(seen[-1], saved)
    unaveraged = load_file(tmp_path / "run" / "unaveraged.safetensors")["head.fc6.weight"]
    assert not torch.equal(saved, unaveraged)
