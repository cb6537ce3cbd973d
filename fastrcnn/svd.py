"""Truncated SVD: a fully connected layer is replaced by two thin ones (paper, section 3.1).

The weights W = U S V^T are reduced to their t largest singular values: t (u + v) numbers instead of u v.

Legend: u outputs and v inputs of the layer, W (u, v); t the rank.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
from torch import nn

from fastrcnn.model import FastRCNN


def truncate_linear(linear: nn.Linear, rank: int) -> nn.Sequential:
    """Approximate a layer by two thin layers without a nonlinearity between them (fast-rcnn compress_net.py).

    Args:
        linear: W (u, v), bias (u,). It is not changed.
        rank: t, from 1 to min(u, v). With min(u, v) the two layers equal the given one.

    Returns:
        A layer S_t V_t^T (t, v) without bias, then a layer U_t (u, t) with the bias of `linear`. They are the
        best approximation of rank t in the Frobenius norm: the squared error is the sum of the squares of the
        omitted singular values.

    Raises:
        ValueError: `rank` is below 1 or above min(u, v).
    """
    if not 1 <= rank <= min(linear.weight.shape):
        shape = tuple(linear.weight.shape)
        raise ValueError(
            f"rank={rank}: expected 1 to {min(shape)}, the number of singular values of weights {shape}"
        )
    with torch.no_grad():
        # In float32 on the CPU, the vectors of small singular values lose half their digits.
        u, s, vt = torch.linalg.svd(linear.weight.double(), full_matrices=False)
        first = nn.Linear(linear.in_features, rank, bias=False)
        second = nn.Linear(rank, linear.out_features, bias=linear.bias is not None)
        first.weight.copy_(s[:rank, None] * vt[:rank])
        second.weight.copy_(u[:, :rank])
        if linear.bias is not None:
            second.bias.copy_(linear.bias)
    return nn.Sequential(first, second).to(linear.weight)


def compress(model: FastRCNN, fc6_rank: int = 1024, fc7_rank: int = 256) -> FastRCNN:
    """Return a copy of a trained model whose fc6 and fc7 are truncated.

    The config of the copy holds the ranks, so its checkpoint loads like any other. The default ranks are
    those of the paper for its models S, M and L.

    Raises:
        ValueError: a rank is outside the range of `truncate_linear`, or a layer is truncated already.
    """
    for name, layer in (("fc6", model.head.fc6), ("fc7", model.head.fc7)):
        if not isinstance(layer, nn.Linear):
            raise ValueError(f"{name} is truncated already: give a model that is not compressed")
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
