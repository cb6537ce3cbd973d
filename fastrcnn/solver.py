"""The SGD recipe: rates, schedule, decay and momentum, of the reference code and of today.

F = rbgirshick/fast-rcnn (solver.prototxt, train.prototxt), C = its Caffe, D2 = detectron2's 1x schedule.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

Schedule = Literal["step", "cosine"]
Trained = Literal["all", "bbox_pred"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SolverConfig:
    """The bare defaults are `paper`."""

    learning_rate: float = 0.001
    """Of weights, at `batch_size`."""
    batch_size: int = 2
    """Images a step, over all workers (N of section 2.3)."""
    iterations: int | None = 40_000
    """Steps; None: as `epochs` says."""
    epochs: float | None = None
    """Passes over the training images, where `iterations` is None."""
    schedule: Schedule = "step"
    drops: tuple[float, ...] = (0.75,)
    """Shares of the run after which the rate is multiplied by `gamma`: 30k of 40k (F)."""
    gamma: float = 0.1
    momentum: float = 0.9
    caffe_momentum: bool = True
    """V <- mu V + lr g (C solver.cpp): a drop of the rate takes ten steps to arrive. torch drops at once."""
    weight_decay: float = 0.0005
    bias_rate: float = 2.0
    """Times the rate, for biases (F lr_mult 2)."""
    bias_decay: float = 0.0
    """Times the decay, for biases (F decay_mult 0; the paper's text says 1)."""
    warmup: int = 0
    """Steps over which the rate grows linearly from a thousandth."""
    max_grad_norm: float | None = None
    """Longer gradients are shortened to it: one odd batch then cannot end a run."""
    mixed_precision: bool = False
    """bfloat16 autocast where the device has instructions for it (`fastrcnn.precision`): two images of 480 px
    with an RPN (mobilenet_v2, a thread of AMD EPYC, Zen 5) took .55 s a step instead of .93."""
    images_per_pass: int | None = None
    """Images of a worker's share that go through the network at once; gradients of the passes are added up,
    so a step is the same and its memory bounded. None: all of them."""
    compile: bool = False
    """torch.compile of the backbone, on GPUs; not measured there. On a CPU it would cost: mobilenet_v2, two
    images of 240 px, .26 s of a core a step against .17, after four minutes of compiling."""
    deterministic: bool = False
    """Only algorithms that add up in one order: the same run bit for bit on the same kind of GPU, more slowly
    (poolings have such paths, `fastrcnn.pooling`). CPUs give that anyway."""
    trained: Trained = "all"
    """`bbox_pred`: all else keeps its weights, the second stage of stage-wise training (paper, Table 6)."""

    def __post_init__(self) -> None:
        if (self.iterations is None) == (self.epochs is None):
            raise ValueError(
                f"iterations={self.iterations}, epochs={self.epochs}: give one of them"
            )
        if self.images_per_pass is not None and self.images_per_pass < 1:
            raise ValueError(f"images_per_pass={self.images_per_pass}: must be at least 1")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate={self.learning_rate}: must be above 0")

    @classmethod
    def paper(cls, **changes: Any) -> SolverConfig:
        """F's numbers for VOC 2007."""
        return cls(**changes)

    @classmethod
    def modern(cls, **changes: Any) -> SolverConfig:
        """D2's 1x: .02 at 16 images, 12 epochs; here with a cosine, which needs no places for drops."""
        numbers: dict[str, Any] = {
            "learning_rate": 0.02,
            "batch_size": 16,
            "iterations": None,
            "epochs": 12.0,
            "schedule": "cosine",
            "caffe_momentum": False,
            "weight_decay": 0.0001,
            "bias_rate": 1.0,
            "warmup": 500,
            "max_grad_norm": 10.0,
            "mixed_precision": True,
        }
        return cls(**(numbers | changes))

    def num_iterations(self, num_images: int) -> int:
        """Steps of the whole run, at least one."""
        if self.iterations is not None:
            return self.iterations
        assert self.epochs is not None
        return max(1, round(self.epochs * num_images / self.batch_size))


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
