"""Estimate the memory of a training step, before any worker starts. The estimate is a lower bound.

It counts what must be in memory at the same time: weights, gradients, the optimizer's state, an average of
the weights, and the activations kept for the backward pass. Measured, this was 72% (mobilenet_v2) and 84%
(resnet50_fpn) of the growth of the process. The rest is workspace and fragmentation. So a training that is
refused here cannot fit, and one that is accepted may still run out of memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ray
import torch
from torch import Tensor, nn

from fastrcnn.config import FastRCNNConfig, SolverConfig
from fastrcnn.config.solver import Optimizer
from fastrcnn.model import FastRCNN
from fastrcnn.solver import freeze_untrained
from pipeline.errors import UserError
from pipeline.runtime import cluster

FLOAT = 4
"""Bytes of a float32. Weights, gradients and the optimizer's state are float32, also with mixed precision."""
STATES: Mapping[Optimizer, int] = {"sgd": 1, "adamw": 2}
"""Tensors that an optimizer keeps for each trained parameter: a velocity, or two averages."""
GB = 1e9
"""Bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMemory:
    """Memory of one worker during a step, in bytes."""

    weights: int
    gradients: int
    """One per trained parameter."""
    momentum: int
    """The optimizer's state, see `STATES`."""
    activations: int
    """Kept for the backward pass, for the images of one pass."""
    average: int = 0
    """The average of the trained weights, with `ema_decay`."""

    @property
    def total(self) -> int:
        return self.weights + self.average + self.gradients + self.momentum + self.activations

    def __str__(self) -> str:
        return (
            f"at least {self.total / GB:.2f} GB (weights {(self.weights + self.average) / GB:.2f},"
            f" gradients and optimizer {(self.gradients + self.momentum) / GB:.2f},"
            f" images {self.activations / GB:.2f})"
        )


def step_memory(config: FastRCNNConfig, solver: SolverConfig, num_workers: int) -> StepMemory:
    """Estimate the memory of one worker's step, for images of 4:3 at the largest scale. If a step shows tiles
    only, they are squares.

    The network runs on the meta device, whose tensors have shapes but no data. This takes about 0.1 s. Frozen
    stages keep no activations.
    """
    with torch.device("meta"):
        model = FastRCNN(config)
    freeze_untrained(model, solver)
    images = solver.batch_size // num_workers
    if solver.images_per_pass:
        images = min(images, solver.images_per_pass)
    short = max(config.train_scales or config.scales)
    only_tiles = config.tile is not None and not config.whole_share
    long = short if only_tiles else min(round(short * 4 / 3), config.max_size)
    image = torch.empty(1, 3, short, long, device="meta")
    channels, side = model.backbone.out_channels, config.pool_size
    pooled = torch.empty(config.rois_per_image, channels, side, side, device="meta")
    # If the backbone is trained, gradients flow into the pooled features.
    trained_backbone = any(p.requires_grad for p in model.backbone.parameters())
    pooled.requires_grad_(trained_backbone)
    kept = _activation_bytes(model.backbone, image) + _activation_bytes(model.head, pooled)
    if model.rpn is not None:
        kept += _rpn_activation_bytes(model, image, trained_backbone)
    weights = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return StepMemory(
        weights=FLOAT * weights,
        gradients=FLOAT * trained,
        momentum=FLOAT * trained * STATES[solver.optimizer],
        average=0 if solver.ema_decay is None else FLOAT * trained,
        activations=images
        * kept
        // (2 if solver.mixed_precision else 1),  # at best all are bfloat16
    )


def _rpn_activation_bytes(model: FastRCNN, image: Tensor, trained_backbone: bool) -> int:
    """Count the bytes that the RPN's head keeps. Feature maps are counted with the backbone, anchors not at
    all."""
    assert model.rpn is not None
    with torch.no_grad():
        maps = model.backbone(image)
    maps = [torch.empty_like(level, requires_grad=trained_backbone) for level in maps]
    return _activation_bytes(model.rpn.head, maps, shared=maps)


def _activation_bytes(
    module: nn.Module, inputs: Tensor | list[Tensor], shared: Sequence[Tensor] = ()
) -> int:
    """Count the bytes that autograd keeps for the backward pass of a module.

    Each storage counts once. Parameters and buffers of the module and the tensors in `shared` do not count.
    """
    parts = (*module.parameters(), *module.buffers(), *shared)
    excluded = {t.untyped_storage()._cdata for t in parts}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in excluded:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = module.train()(inputs)  # kept alive until counted, so that no address is reused
    del outputs
    return sum(kept.values())


def check_fits(memory: StepMemory, num_workers: int, gpus: float) -> None:
    """Raise UserError if a worker has too little memory for a step.

    Args:
        gpus: GPUs of one worker. With 0, it trains in the memory of the machine.
    """
    available = _gpu_bytes(gpus) if gpus else _machine_bytes(num_workers)
    if memory.total > available:
        raise UserError(
            "GPU memory" if gpus else "memory of the machines",
            f"a worker needs {memory} and has {available / GB:.2f} GB",
            "Give --set images_per_pass=1, a smaller --scale or --rois-per-image, or more workers.",
        )


def _machine_bytes(num_workers: int) -> float:
    """Give a worker's share of the cluster's memory, as Ray counts it: without the object store."""
    return cluster.resources().get("memory", float("inf")) / num_workers


def _gpu_bytes(gpus: float) -> float:
    """Give a worker's share of one GPU's memory. A task on one of the GPUs reads it."""
    probe = ray.remote(num_gpus=gpus, num_cpus=0)(_device_bytes)
    total: float = ray.get(probe.remote())
    return total * min(gpus, 1.0)


def _device_bytes() -> float:
    return float(torch.cuda.get_device_properties(0).total_memory)
