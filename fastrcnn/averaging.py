"""An exponential average of the trained weights. It changes less from step to step than the weights do.

After step t (from 0), the average becomes d average + (1 - d) weights, where d is the smaller of `decay` and
(1 + t) / (10 + t). A constant d of .999 would remember the initial weights for some 5,000 steps. The smaller
d of the first steps forgets them in time, so the average suits short trainings too. d depends on the step
alone, so a resumed run needs only the average.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """Copy the trained parameters, by name."""
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


class WeightAverage:
    """The average of a model's trained parameters. Other parameters and all buffers are not averaged.

    Args:
        model: its weights are the first average.
        decay: the largest share of the average that a step keeps.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = trained_weights(model)

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take the weights after a step (from 0) into the average."""
        share = min(self.decay, (1 + step) / (10 + step))
        parameters = dict(model.named_parameters())
        for name, average in self.weights.items():
            average.lerp_(parameters[name], 1 - share)

    @contextmanager
    def applied(self, model: nn.Module) -> Generator[None, None, None]:
        """Let the model have the averaged weights inside the `with` block, and its weights after it."""
        weights = trained_weights(model)
        load_weights(model, self.weights)
        try:
            yield
        finally:
            load_weights(model, weights)


@torch.no_grad()
def load_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy weights, by name, into the parameters of a model."""
    parameters = dict(model.named_parameters())
    for name, values in weights.items():
        parameters[name].copy_(values)
