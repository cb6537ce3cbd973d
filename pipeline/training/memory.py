"""Will a training fit? What a step holds at the least, worked out before any worker starts.

Only what must be there at once is counted: weights, gradients, momentum, what the forward pass keeps for the
backward one. It was 72% and 84% of what a process grew by (mobilenet_v2, resnet50_fpn): workspaces and gaps
come on top. So what is refused here cannot fit, and what is let through may still fail.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import ray
import torch
from torch import Tensor, nn

from fastrcnn.config import FastRCNNConfig, SolverConfig
from fastrcnn.model import FastRCNN
from fastrcnn.solver import freeze_untrained
from pipeline.errors import UserError
from pipeline.runtime import cluster

FLOAT = 4
"""Bytes. Weights, gradients and momentum are float32 in mixed precision too."""
GB = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMemory:
    """Bytes of one worker."""

    weights: int
    gradients: int
    """Of what is trained."""
    momentum: int
    activations: int
    """Kept for the backward pass, of the images that go through at once."""

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.momentum + self.activations

    def __str__(self) -> str:
        return (
            f"at least {self.total / GB:.2f} GB (weights {self.weights / GB:.2f}, gradients and"
            f" momentum {(self.gradients + self.momentum) / GB:.2f}, images {self.activations / GB:.2f})"
        )


def step_memory(config: FastRCNNConfig, solver: SolverConfig, num_workers: int) -> StepMemory:
    """What a worker's step holds, for images of 4:3 at the largest scale; frozen stages keep nothing.

    The network runs on the meta device, whose tensors have shapes and no data: some 0.1 s.
    """
    with torch.device("meta"):
        model = FastRCNN(config)
    freeze_untrained(model, solver)
    images = solver.batch_size // num_workers
    if solver.images_per_pass:
        images = min(images, solver.images_per_pass)
    short = max(config.train_scales or config.scales)
    image = torch.empty(1, 3, short, min(round(short * 4 / 3), config.max_size), device="meta")
    channels, side = model.backbone.out_channels, config.pool_size
    pooled = torch.empty(config.rois_per_image, channels, side, side, device="meta")
    # With a trained backbone, gradients flow into the pooled features.
    trained_backbone = any(p.requires_grad for p in model.backbone.parameters())
    pooled.requires_grad_(trained_backbone)
    kept = _kept_for_backward(model.backbone, image) + _kept_for_backward(model.head, pooled)
    if model.rpn is not None:
        kept += _kept_of_rpn(model, image, trained_backbone)
    weights = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return StepMemory(
        weights=FLOAT * weights,
        gradients=FLOAT * trained,
        momentum=FLOAT * trained,
        activations=images * kept // (2 if solver.mixed_precision else 1),  # bfloat16 at the best
    )


def _kept_of_rpn(model: FastRCNN, image: Tensor, trained_backbone: bool) -> int:
    """Of its head, without the feature maps, which the backbone's part has; anchors come on top."""
    assert model.rpn is not None
    with torch.no_grad():
        maps = model.backbone(image)
    maps = [torch.empty_like(own, requires_grad=trained_backbone) for own in maps]
    return _kept_for_backward(model.rpn.head, maps, shared=maps)


def _kept_for_backward(
    module: nn.Module, inputs: Tensor | list[Tensor], shared: Sequence[Tensor] = ()
) -> int:
    """Bytes that autograd keeps, each storage once, without the module's own parameters and buffers, and
    without what is `shared` with others."""
    parts = (*module.parameters(), *module.buffers(), *shared)
    own = {t.untyped_storage()._cdata for t in parts}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = module.train()(inputs)  # alive until counted: an address is one storage
    del outputs
    return sum(kept.values())


def check_fits(memory: StepMemory, num_workers: int, gpus: float) -> None:
    """Raises UserError where a worker cannot hold a step.

    Args:
        gpus: of each worker; 0 trains in the machines' own memory.
    """
    has = _gpu_bytes(gpus) if gpus else _machine_bytes(num_workers)
    if memory.total > has:
        raise UserError(
            "memory of a GPU" if gpus else "memory of the machines",
            f"a worker needs {memory} and has {has / GB:.2f}",
            "Give --set images_per_pass=1, a smaller --scale or --rois-per-image, or more workers.",
        )


def _machine_bytes(num_workers: int) -> float:
    """A worker's share of what Ray counts as memory: without what it keeps for its objects."""
    return cluster.resources().get("memory", float("inf")) / num_workers


def _gpu_bytes(gpus: float) -> float:
    """A worker's share of a GPU, asked of one of them."""
    probe = ray.remote(num_gpus=gpus, num_cpus=0)(_device_bytes)
    total: float = ray.get(probe.remote())
    return total * min(gpus, 1.0)


def _device_bytes() -> float:
    return float(torch.cuda.get_device_properties(0).total_memory)
