"""Truncated heads: a fully connected layer as two thin ones (paper, section 3.1).

W (u, v) = U S V^T is cut to its t largest singular values: t (u + v) weights instead of u v.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
from torch import nn

from fastrcnn.model import FastRCNN


def truncate_linear(linear: nn.Linear, rank: int) -> nn.Sequential:
    """S_t V_t^T without a bias, then U_t with the old one; nothing in between (fast-rcnn compress_net.py).

    Args:
        linear: W (u, v), bias (u,); left as it is.
        rank: t, from 1 to min(u, v); the latter reproduces the layer.

    Returns:
        The best approximation of rank t in the Frobenius norm: its squared error is the sum of the squares
        of the singular values left out.

    Raises:
        ValueError: no such rank.
    """
    if not 1 <= rank <= min(linear.weight.shape):
        shape = tuple(linear.weight.shape)
        raise ValueError(f"rank={rank}: weights {shape} have 1 to {min(shape)} singular values")
    with torch.no_grad():
        # float64: on the CPU float32's small singular vectors lose half their digits.
        u, s, vt = torch.linalg.svd(linear.weight.double(), full_matrices=False)
        first = nn.Linear(linear.in_features, rank, bias=False)
        second = nn.Linear(rank, linear.out_features, bias=linear.bias is not None)
        first.weight.copy_(s[:rank, None] * vt[:rank])
        second.weight.copy_(u[:, :rank])
        if linear.bias is not None:
            second.bias.copy_(linear.bias)
    return nn.Sequential(first, second).to(linear.weight)


def compress(model: FastRCNN, fc6_rank: int = 1024, fc7_rank: int = 256) -> FastRCNN:
    """A copy of a trained model with truncated fc6 and fc7; the ranks are the paper's for S, M and L.

    Its config holds the ranks, so its checkpoint loads like any other.

    Raises:
        ValueError: a layer has not so many singular values, or is truncated already.
    """
    for name, layer in (("fc6", model.head.fc6), ("fc7", model.head.fc7)):
        if not isinstance(layer, nn.Linear):
            raise ValueError(f"{name} is truncated already")
    layers = {
        "head.fc6": truncate_linear(cast(nn.Linear, model.head.fc6), fc6_rank),
        "head.fc7": truncate_linear(cast(nn.Linear, model.head.fc7), fc7_rank),
    }
    weights = {k: v for k, v in model.state_dict().items() if not k.startswith(tuple(layers))}
    for prefix, layer in layers.items():
        weights |= {f"{prefix}.{k}": v for k, v in layer.state_dict().items()}
    compressed = FastRCNN(replace(model.config, fc6_rank=fc6_rank, fc7_rank=fc7_rank))
    compressed.load_state_dict(weights)
    return compressed.to(model.device).train(model.training)
