"""Training targets with random boxes, for tests of the loss and of its statistics."""

from __future__ import annotations

import torch

from fastrcnn.loss import Target


def random_targets() -> list[Target]:
    """Make the targets of three images: 200 proposals each, and 6 objects of 2 classes near some of them."""
    generator = torch.Generator().manual_seed(1)
    out = []
    for _ in range(3):
        corner = torch.rand(200, 2, generator=generator) * 60
        size = 20 + torch.rand(200, 2, generator=generator) * 30
        proposals = torch.cat([corner, corner + size], dim=1)
        gt = proposals[:6] + torch.rand(6, 4, generator=generator) * 4
        out.append(Target(proposals, gt, torch.tensor([1, 1, 1, 2, 2, 2])))
    return out
