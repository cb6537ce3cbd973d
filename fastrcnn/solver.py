"""SGD with the numbers of a `SolverConfig`: the trained parameters, and the learning rate of each step."""

from __future__ import annotations

import math

import torch
from torch import nn

from fastrcnn.config import SolverConfig


def learning_rate(config: SolverConfig, iteration: int, num_iterations: int) -> float:
    """Compute the learning rate of step `iteration` (from 0) of `num_iterations`.

    Example:
        Preset `paper`: 1e-3 at iteration 29,999 and 1e-4 at iteration 30,000.
    """
    if config.schedule == "cosine":
        rate = config.learning_rate * 0.5 * (1 + math.cos(math.pi * iteration / num_iterations))
    else:
        passed = sum(iteration >= round(drop * num_iterations) for drop in config.drops)
        rate = config.learning_rate * config.gamma**passed
    # A warm-up takes at most a tenth of the steps. Otherwise it would be most of a short training.
    warmup = min(config.warmup, num_iterations // 10)
    if iteration < warmup:
        rate *= 0.001 + 0.999 * iteration / warmup
    return rate


def freeze_untrained(model: nn.Module, config: SolverConfig) -> None:
    """Switch off the gradient of all parameters that `config.trained` does not include."""
    if config.trained == "bbox_pred":
        for name, parameter in model.named_parameters():
            if ".bbox_pred." not in f".{name}":
                parameter.requires_grad_(False)


def build_optimizer(model: nn.Module, config: SolverConfig) -> torch.optim.SGD:
    """Build SGD over the trained parameters, in two groups: weights and biases.

    Scales and shifts of norm layers are one-dimensional like biases, and are in their group. Weight decay
    would pull a scale towards 0, for which there is no reason.
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
    """Set the learning rate of every parameter group.

    torch keeps V = mu V + g and takes the step lr V. Caffe keeps V = mu V + lr g and takes the step V. So in
    Caffe a gradient keeps the learning rate of its step. With `caffe_momentum`, torch's V is multiplied by
    old rate / new rate at each change of the rate. The steps are then equal to Caffe's.

    Args:
        rate: learning rate of the weights. Biases have `SolverConfig.bias_rate` times this rate.
    """
    for group in optimizer.param_groups:
        new = rate * group["rate"]
        if caffe_momentum and new != group["lr"]:
            for parameter in group["params"]:
                velocity = optimizer.state.get(parameter, {}).get("momentum_buffer")
                if velocity is not None:
                    velocity.mul_(group["lr"] / new)
        group["lr"] = new
