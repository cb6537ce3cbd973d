"""SGD by the numbers of a `SolverConfig`: what is trained, and the rate of each step."""

from __future__ import annotations

import math

import torch
from torch import nn

from fastrcnn.config import SolverConfig


def learning_rate(config: SolverConfig, iteration: int, num_iterations: int) -> float:
    """Rate of step `iteration` (from 0) of `num_iterations`.

    Example:
        `paper`: 1e-3 at iteration 29,999, 1e-4 at 30,000.
    """
    if config.schedule == "cosine":
        rate = config.learning_rate * 0.5 * (1 + math.cos(math.pi * iteration / num_iterations))
    else:
        passed = sum(iteration >= round(drop * num_iterations) for drop in config.drops)
        rate = config.learning_rate * config.gamma**passed
    # A warm-up longer than a tenth of the run would be most of a short one.
    warmup = min(config.warmup, num_iterations // 10)
    if iteration < warmup:
        rate *= 0.001 + 0.999 * iteration / warmup
    return rate


def freeze_untrained(model: nn.Module, config: SolverConfig) -> None:
    """Stop the gradient into the parameters that `config.trained` leaves out."""
    if config.trained == "bbox_pred":
        for name, parameter in model.named_parameters():
            if ".bbox_pred." not in f".{name}":
                parameter.requires_grad_(False)


def build_optimizer(model: nn.Module, config: SolverConfig) -> torch.optim.SGD:
    """SGD over the parameters that are trained, in two groups: weights and biases.

    Norm layers' affine parameters are one-dimensional like biases and are treated as such: decaying a
    scale towards 0 is not a prior anyone holds.
    """
    weights: list[nn.Parameter] = []
    biases: list[nn.Parameter] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            (weights if parameter.ndim > 1 else biases).append(parameter)
    groups = [
        {"params": weights, "rate": 1.0, "weight_decay": config.weight_decay},
        {
            "params": biases,
            "rate": config.bias_rate,
            "weight_decay": config.weight_decay * config.bias_decay,
        },
    ]
    return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum)


def set_learning_rate(optimizer: torch.optim.SGD, rate: float, *, caffe_momentum: bool) -> None:
    """Give every group its rate. With `caffe_momentum` the velocity keeps the rates it was gathered at.

    torch keeps V = mu V + g and steps lr V; Caffe keeps V = mu V + lr g and steps V. Scaling torch's V by
    old / new rate at each change makes them the same run.
    """
    for group in optimizer.param_groups:
        new = rate * group["rate"]
        if caffe_momentum and new != group["lr"]:
            for parameter in group["params"]:
                velocity = optimizer.state.get(parameter, {}).get("momentum_buffer")
                if velocity is not None:
                    velocity.mul_(group["lr"] / new)
        group["lr"] = new
