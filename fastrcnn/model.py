"""The Fast R-CNN network: backbone, RoI pooling, two fully connected layers and two sibling outputs.

Legend: N images; R RoIs of all N images; K classes; L feature maps; C channels; P bins per side of a pooled
RoI. RoIs are in the model frame. Small parts come first: `Head`, then `FastRCNN`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import Conv2dNormActivation

from fastrcnn.backbones import backbone_spec
from fastrcnn.backbones.backbone import Backbone
from fastrcnn.backbones.convolution import FrozenNorm, use_fast_convolutions
from fastrcnn.config import FastRCNNConfig
from fastrcnn.pooling import count_levels, gathers_cells, pool
from fastrcnn.rpn import RPN


class Head(nn.Module):
    """The layers after RoI pooling: fc6, fc7, and the two sibling outputs `cls_score` and `bbox_pred`.

    With `config.head_convs`, convolutions come first and there is no fc7.

    They take pooled features (R, C, P, P) and return class_logits (R, K + 1) and box_deltas
    (R, 4 * (K + 1)), both float32.
    """

    delta_mean: Tensor
    delta_std: Tensor
    hidden_dtype: torch.dtype | None = None
    """The type in which fc6 and fc7 compute. None: float32. `fastrcnn.scoring_form` sets it."""

    def __init__(self, config: FastRCNNConfig, channels: int) -> None:
        super().__init__()
        num_outputs = config.num_classes + 1
        norm = FrozenNorm if config.frozen_norm else nn.BatchNorm2d
        self.convs = nn.Sequential(
            *[
                Conv2dNormActivation(channels, channels, norm_layer=norm)
                for _ in range(config.head_convs)
            ]
        )
        self.fc6 = _hidden(channels * config.pool_size**2, config.fc_dim, config.fc6_rank)
        fc7_dim = config.fc7_dim or config.fc_dim
        self.fc7 = (
            nn.Identity()  # after convolutions, one hidden layer is enough (TV FastRCNNConvFCHead)
            if config.head_convs
            else _hidden(config.fc_dim, fc7_dim, config.fc7_rank)
        )
        self.cls_score = nn.Linear(fc7_dim, num_outputs)
        # A class-agnostic head predicts one box per RoI, and every class gets a copy.
        self.box_copies = num_outputs if config.class_agnostic else 1
        self.bbox_pred = nn.Linear(fc7_dim, 4 * num_outputs // self.box_copies)
        self.dropout = config.dropout
        # Paper, section 4: zero-mean Gaussians with standard deviations .01 and .001; biases are 0.
        for sibling, deviation in ((self.cls_score, 0.01), (self.bbox_pred, 0.001)):
            nn.init.normal_(sibling.weight, std=deviation)
            nn.init.zeros_(sibling.bias)
        # bbox_pred learns normalised targets. These two buffers turn its output back into deltas. The
        # reference code folds them into the weights at each snapshot instead (train.py:48-82).
        std = torch.tensor(config.delta_std or (1.0, 1.0, 1.0, 1.0))
        self.register_buffer("delta_mean", torch.zeros(num_outputs, 4))
        self.register_buffer("delta_std", std.repeat(num_outputs, 1))

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        x = self.hidden(pooled).to(self.cls_score.weight.dtype)
        normalised = self.bbox_pred(x).float().repeat(1, self.box_copies)
        box_deltas = normalised * self.delta_std.flatten() + self.delta_mean.flatten()
        return self.cls_score(x).float(), box_deltas

    def hidden(self, pooled: Tensor) -> Tensor:
        """Compute the features (R, fc7) that the two sibling outputs read."""
        x = pooled if self.hidden_dtype is None else pooled.to(self.hidden_dtype)
        x = self.convs(x).flatten(1)  # (R, C * P * P)
        for layer in (self.fc6, self.fc7):
            x = F.dropout(F.relu(layer(x)), self.dropout, self.training)
        return x


def _hidden(inputs: int, outputs: int, rank: int | None) -> nn.Module:
    """Build fc6 or fc7: one linear layer. With a rank, build the two thin layers of `fastrcnn.svd`."""
    if rank is not None:
        return nn.Sequential(nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs))
    linear = nn.Linear(inputs, outputs)
    nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
    nn.init.zeros_(linear.bias)
    return linear


class FastRCNN(nn.Module):
    """The network of the paper's figure 1: backbone, RoI pooling and head. With `config.rpn` it has an RPN.

    Training and scoring call its parts in this order: `features`, `rpn` if there is one, `classify`. A call
    of the model itself runs `features` and `classify`. The type of the result is the same in training and
    eval mode.
    """

    rois_per_chunk = 4096
    """The most RoIs in one pass of the head at inference. The limit saves memory (4096 x 25088 floats are
    0.4 GB) and changes no result."""

    def __init__(self, config: FastRCNNConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config.backbone, frozen_norm=config.frozen_norm)
        self.head = Head(config, self.backbone.out_channels)
        # The RPN is built after the head. So the head's initial weights do not depend on it.
        self.rpn: RPN | None = None
        if config.rpn is not None:
            self.rpn = RPN(config.rpn, self.backbone.out_channels, self.backbone.strides)
        use_fast_convolutions(self)
        self.backbone.freeze(config.frozen_stages)

    @property
    def device(self) -> torch.device:
        """The device that holds the weights."""
        return self.head.delta_mean.device

    def forward(self, images: Tensor, rois: Tensor) -> tuple[Tensor, Tensor]:
        """Score RoIs of a batch of images.

        Args:
            images: (N, 3, H, W) float32, normalised by `fastrcnn.transform.batch_images`.
            rois: (R, 5) float32, batch index first, in the frame of `images`.

        Returns:
            class_logits: (R, K + 1). Column 0 is background.
            box_deltas: (R, 4 * (K + 1)), not normalised. `fastrcnn.boxes.decode` takes them.
        """
        return self.classify(self.features(images), rois)

    def features(self, images: Tensor) -> list[Tensor]:
        """Run the backbone on images (N, 3, H, W). Return L maps (N, C, H_l, W_l), finest first."""
        maps: list[Tensor] = self.backbone(images)
        return maps

    def classify(self, features: Sequence[Tensor], rois: Tensor) -> tuple[Tensor, Tensor]:
        """Pool rois (R, 5) from the maps of `features` and run the head. Return the outputs of `forward`."""
        if torch.is_grad_enabled():
            return self._classify_chunk(features, rois)
        chunks = torch.split(rois, self.rois_per_chunk)
        counts: Sequence[list[int] | None] = [None] * len(chunks)
        if len(features) > 1 and not gathers_cells(self.config.pooling, rois.device):
            counts = count_levels(chunks, self.backbone.strides)
        pairs = zip(chunks, counts, strict=True)
        outputs = [self._classify_chunk(features, chunk, number) for chunk, number in pairs]
        class_logits, box_deltas = zip(*outputs, strict=True)
        return torch.cat(class_logits), torch.cat(box_deltas)

    def _classify_chunk(
        self, features: Sequence[Tensor], rois: Tensor, counts: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        outputs: tuple[Tensor, Tensor] = self.head(self.pool(features, rois, counts))
        return outputs

    def pool(
        self, features: Sequence[Tensor], rois: Tensor, counts: Sequence[int] | None = None
    ) -> Tensor:
        """Pool rois (R, 5) from the maps of `features`, as the config says. Return (R, C, P, P).

        `counts` are the RoIs of each map, if the caller knows them (`fastrcnn.pooling.pool`).
        """
        config = self.config
        return pool(
            features,
            rois,
            self.backbone.strides,
            config.pool_size,
            config.pooling,
            aligned=config.aligned,
            counts=counts,
        )


def with_config(model: FastRCNN, **changes: Any) -> FastRCNN:
    """Return the same network, with shared weights, under a config with other test settings.

    Args:
        changes: fields of the config and their new values. They must not change the network's shape.
    """
    copied = copy.copy(model)
    copied.config = replace(model.config, **changes)
    return copied


def load_pretrained(model: FastRCNN, state_dict: Mapping[str, Tensor]) -> list[str]:
    """Load a classifier's weights into the backbone, and into fc6 and fc7 if their shapes match.

    Args:
        model: changed in place.
        state_dict: weights of the classifier that the backbone is a part of. They come from torchvision or
            from `fastrcnn.backbones.caffe`.

    Returns:
        The names of the loaded parts: `backbone`, and `fc6` and `fc7` if they were loaded.

    Raises:
        ValueError: a weight of the backbone is missing or has another shape.
    """
    body, spec = model.backbone.body, backbone_spec(model.config.backbone)
    published = spec.body_weights(state_dict)
    expected = body.state_dict()
    mismatched = [
        key
        for key, value in expected.items()
        if not key.endswith("num_batches_tracked")
        and (key not in published or published[key].shape != value.shape)
    ]
    if mismatched:
        raise ValueError(
            f"these are not weights of {model.config.backbone}: {len(mismatched)} of {len(expected)} tensors"
            f" are missing or have another shape, first {mismatched[0]!r}"
        )
    body.load_state_dict({k: v for k, v in published.items() if k in expected}, strict=False)
    loaded = ["backbone"]
    fc = spec.fc_weights(state_dict)
    for name, layer in (("fc6", model.head.fc6), ("fc7", model.head.fc7)):
        weight = fc.get(f"{name}.weight", torch.empty(0))
        if isinstance(layer, nn.Linear) and weight.shape == layer.weight.shape:
            layer.load_state_dict({p: fc[f"{name}.{p}"] for p in ("weight", "bias")})
            loaded.append(name)
    return loaded
