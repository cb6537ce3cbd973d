"""Tests of saving and loading: a resumed run takes the same steps as an uninterrupted one."""

from __future__ import annotations

from pathlib import Path

import torch

from fastrcnn.checkpoint import save_checkpoint
from fastrcnn.config import FastRCNNConfig, ProposalConfig, SolverConfig
from fastrcnn.model import FastRCNN
from fastrcnn.solver import build_optimizer, learning_rate, set_learning_rate
from pipeline.training.state import TrainingProgress, load_state, save_state

CONFIG = FastRCNNConfig.paper(2, backbone="tiny", fc_dim=16, dropout=0.0)
SOLVER = SolverConfig.paper(learning_rate=0.05, iterations=6)  # the rate drops before step 4


def build() -> tuple[FastRCNN, torch.optim.SGD]:
    torch.manual_seed(0)
    model = FastRCNN(CONFIG).train()
    return model, build_optimizer(model, SOLVER)


def take_steps(model: FastRCNN, optimizer: torch.optim.SGD, steps: range) -> None:
    for step in steps:
        set_learning_rate(optimizer, learning_rate(SOLVER, step, 6), caffe_momentum=True)
        image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(step))
        logits, deltas = model(image, torch.tensor([[0.0, 0, 0, 60, 60], [0.0, 10, 10, 40, 50]]))
        optimizer.zero_grad()
        (logits.square().mean() + logits.mean() + deltas.square().mean()).backward()
        optimizer.step()


def test_a_resumed_run_equals_an_uninterrupted_run_bit_for_bit(tmp_path: Path) -> None:
    whole, optimizer = build()
    take_steps(whole, optimizer, range(6))

    first, optimizer = build()
    take_steps(first, optimizer, range(4))
    progress = TrainingProgress(
        4, [{"iteration": 4.0, "loss": 0.5}], [{"iteration": 4, "val_map": 0.25}]
    )
    save_checkpoint(tmp_path, first, classes=("a", "b"), proposals=ProposalConfig(), training={})
    save_state(tmp_path, first, optimizer, progress)

    torch.manual_seed(99)  # the new model starts from other weights
    resumed = FastRCNN(CONFIG).train()
    optimizer = build_optimizer(resumed, SOLVER)
    assert load_state(tmp_path, resumed, optimizer) == progress
    take_steps(resumed, optimizer, range(4, 6))
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
