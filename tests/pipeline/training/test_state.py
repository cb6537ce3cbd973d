"""Tests of saving and loading: a resumed run takes the same steps as an uninterrupted one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fastrcnn.averaging import WeightAverage
from fastrcnn.checkpoint import load_checkpoint, save_checkpoint
from fastrcnn.config import FastRCNNConfig, ProposalConfig, SolverConfig
from fastrcnn.model import FastRCNN
from fastrcnn.solver import build_optimizer, learning_rate, set_learning_rate
from pipeline.training.state import MOMENTUM, TrainingProgress, load_state, save_state

CONFIG = FastRCNNConfig.paper(2, backbone="tiny", fc_dim=16, dropout=0.0)
SGD = SolverConfig.paper(learning_rate=0.05, iterations=6)  # the rate drops before step 4
ADAMW = SolverConfig.paper(learning_rate=0.05, iterations=6, optimizer="adamw", layer_decay=0.5)


class Run:
    """A training that stops and resumes."""

    def __init__(self, solver: SolverConfig, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.solver = solver
        self.model = FastRCNN(CONFIG).train()
        self.optimizer = build_optimizer(self.model, solver)
        decay = solver.ema_decay
        self.average = None if decay is None else WeightAverage(self.model, decay)

    def take_steps(self, steps: range) -> None:
        for step in steps:
            rate = learning_rate(self.solver, step, 6)
            set_learning_rate(self.optimizer, rate, caffe_momentum=self.solver.caffe_momentum)
            image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(step))
            rois = torch.tensor([[0.0, 0, 0, 60, 60], [0.0, 10, 10, 40, 50]])
            logits, deltas = self.model(image, rois)
            self.optimizer.zero_grad()
            (logits.square().mean() + logits.mean() + deltas.square().mean()).backward()
            self.optimizer.step()
            if self.average is not None:
                self.average.update(self.model, step)

    def save(self, folder: Path, progress: TrainingProgress) -> None:
        kept = self.average or WeightAverage(self.model, 0.0)
        with kept.applied(self.model):
            save_checkpoint(
                folder, self.model, classes=("a", "b"), proposals=ProposalConfig(), training={}
            )
        save_state(folder, self.model, self.optimizer, progress, self.average)


@pytest.mark.parametrize("solver", [SGD, ADAMW], ids=["sgd", "adamw"])
@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_a_resumed_run_equals_an_uninterrupted_run_bit_for_bit(
    tmp_path: Path, solver: SolverConfig, ema_decay: float | None
) -> None:
    solver = replace(solver, ema_decay=ema_decay)
    whole = Run(solver)
    whole.take_steps(range(6))

    first = Run(solver)
    first.take_steps(range(4))
    progress = TrainingProgress(
        4, [{"iteration": 4.0, "loss": 0.5}], [{"iteration": 4, "val_map": 0.25}]
    )
    first.save(tmp_path, progress)

    resumed = Run(solver, seed=99)  # the new model starts from other weights
    assert load_state(tmp_path, resumed.model, resumed.optimizer, resumed.average) == progress
    resumed.take_steps(range(4, 6))
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name
    if whole.average is not None:
        assert resumed.average is not None
        for name, value in whole.average.weights.items():
            assert torch.equal(resumed.average.weights[name], value), name


def test_the_checkpoint_has_the_averaged_weights(tmp_path: Path) -> None:
    run = Run(replace(SGD, ema_decay=0.9))
    run.take_steps(range(3))
    run.save(tmp_path, TrainingProgress(3, [], []))
    assert run.average is not None
    saved = load_checkpoint(tmp_path).model.state_dict()
    name = "head.fc6.weight"
    assert torch.equal(saved[name], run.average.weights[name])
    assert not torch.equal(saved[name], run.model.state_dict()[name])


def test_velocities_have_the_names_of_2026_11_29(tmp_path: Path) -> None:
    """Checkpoints of then are resumed, and hold nothing but a velocity for each trained parameter."""
    run = Run(SGD)
    run.take_steps(range(1))
    run.save(tmp_path, TrainingProgress(1, [], []))
    velocities = load_file(tmp_path / MOMENTUM)
    trained = {name for name, p in run.model.named_parameters() if p.requires_grad}
    assert set(velocities) == trained
    assert not (tmp_path / "unaveraged.safetensors").exists()
    save_file({name: torch.ones_like(v) for name, v in velocities.items()}, tmp_path / MOMENTUM)
    other = Run(SGD)
    load_state(tmp_path, other.model, other.optimizer)
    bias = other.model.head.cls_score.bias
    assert other.optimizer.state[bias] == {"momentum_buffer": pytest.approx(torch.ones(3))}


@pytest.mark.parametrize(
    ("maps", "stops"),
    [
        ([], False),
        ([0.1, 0.1], False),  # one validation without a better mAP
        ([0.1, 0.1, 0.1], True),  # an equal mAP is not better
        ([0.3, 0.1, 0.2], True),
        ([0.3, 0.1, 0.31], False),
        ([0.1, 0.2, 0.3, 0.25, 0.29], True),
        ([0.0, 0.0, 0.0], True),
    ],
)
def test_patience_counts_validations_since_the_best(maps: list[float], stops: bool) -> None:
    rows = [{"val_map": value, "val_map50_95": n} for n, value in enumerate(maps)]
    progress = TrainingProgress(9, [], rows)
    assert progress.out_of_patience(replace(SGD, patience=2)) == stops
    assert not progress.out_of_patience(replace(SGD, patience=2, best_by="map50_95"))
    assert not progress.out_of_patience(SGD)
    assert not progress.out_of_patience(replace(SGD, patience=9))
