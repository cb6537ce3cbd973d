"""The optimizer with the numbers of a `SolverConfig`: the trained parameters, and the rate of each step."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import nn

from fastrcnn.backbones import backbone_spec
from fastrcnn.backbones.backbone import Backbone
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


def build_optimizer(model: nn.Module, config: SolverConfig) -> torch.optim.Optimizer:
    """Build the optimizer over the trained parameters, in two groups: weights and biases.

    Scales and shifts of norm layers are one-dimensional like biases, and are in their group. Weight decay
    would pull a scale towards 0, for which there is no reason. With a `layer_decay` below 1 there are two
    groups for each stage of the backbone, and two for the rest of the model.
    """
    shares = _rate_shares(model, config.layer_decay)
    parts: dict[float, tuple[list[nn.Parameter], list[nn.Parameter]]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            weights, biases = parts.setdefault(shares.get(name, 1.0), ([], []))
            (weights if _decays(name, parameter) else biases).append(parameter)
    groups = []
    for share, (weights, biases) in sorted(parts.items(), reverse=True):
        decay = config.weight_decay
        groups.append({"params": weights, "rate": share, "weight_decay": decay})
        bias_decay = decay * config.bias_decay
        groups.append(
            {"params": biases, "rate": share * config.bias_rate, "weight_decay": bias_decay}
        )
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas)
    return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum)


def _decays(name: str, parameter: nn.Parameter) -> bool:
    """Return True for the weights of a layer, which decay. Scales and biases of any shape do not.

    ConvNeXt has a scale (C, 1, 1) in each block, Swin has a scale (heads, 1, 1) and a table of position
    biases.
    """
    scale = parameter.ndim == 3 and parameter.numel() == parameter.shape[0]
    return parameter.ndim > 1 and not scale and "bias" not in name.rpartition(".")[2]


def _rate_shares(model: nn.Module, layer_decay: float) -> dict[str, float]:
    """Give the share of the learning rate of each parameter of the backbone's body, by name.

    With S stages, the parameters of stage s (from 1) have the share `layer_decay` ** (S + 1 - s).
    """
    backbone = getattr(model, "backbone", None)
    if layer_decay == 1 or not isinstance(backbone, Backbone):
        return {}
    return {f"backbone.body.{name}": layer_decay**depth for name, depth in _depths(backbone)}


def _depths(backbone: Backbone) -> Iterator[tuple[str, int]]:
    """Yield each parameter of the body with the number of stages from its stage to the head."""
    starts = backbone_spec(backbone.name).stages
    depth = len(starts) + 1
    for child, module in backbone.body.named_children():
        depth -= child in starts
        for name, _ in module.named_parameters(child):
            yield name, min(depth, len(starts))


def set_learning_rate(
    optimizer: torch.optim.Optimizer, rate: float, *, caffe_momentum: bool
) -> None:
    """Set the learning rate of every parameter group.

    torch keeps V = mu V + g and takes the step lr V. Caffe keeps V = mu V + lr g and takes the step V. So in
    Caffe a gradient keeps the learning rate of its step. With `caffe_momentum`, torch's V is multiplied by
    old rate / new rate at each change of the rate. The steps are then equal to Caffe's.

    Args:
        rate: learning rate of the weights. Each group has its share of it, for example
            `SolverConfig.bias_rate` for biases.
    """
    for group in optimizer.param_groups:
        new = rate * group["rate"]
        if caffe_momentum and new != group["lr"]:
            for parameter in group["params"]:
                velocity = optimizer.state.get(parameter, {}).get("momentum_buffer")
                if velocity is not None:
                    velocity.mul_(group["lr"] / new)
        group["lr"] = new
