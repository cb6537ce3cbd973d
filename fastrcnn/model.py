"""Fast R-CNN: one pass over the image, pooled RoIs, two fully connected layers, two sibling outputs.

N images, R RoIs of all N images, K classes, L feature maps, C channels, P the side of a pooled RoI. RoIs are
in the model frame. Read from small to large: `Head`, `FastRCNN`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastrcnn.backbones import backbone_spec
from fastrcnn.backbones.backbone import Backbone
from fastrcnn.backbones.convolution import use_fast_convolutions
from fastrcnn.config import FastRCNNConfig
from fastrcnn.pooling import pool
from fastrcnn.rpn import RPN


class Head(nn.Module):
    """fc6, fc7 and the sibling outputs, over pooled features (R, C, P, P)."""

    delta_mean: Tensor
    delta_std: Tensor
    hidden_dtype: torch.dtype | None = None
    """What fc6 and fc7 compute in. None: float32. `fastrcnn.scoring_form` sets it."""

    def __init__(self, config: FastRCNNConfig, channels: int) -> None:
        super().__init__()
        num_outputs = config.num_classes + 1
        self.fc6 = _hidden(channels * config.pool_size**2, config.fc_dim, config.fc6_rank)
        fc7_dim = config.fc7_dim or config.fc_dim
        self.fc7 = _hidden(config.fc_dim, fc7_dim, config.fc7_rank)
        self.cls_score = nn.Linear(fc7_dim, num_outputs)
        # A class-agnostic head predicts one box, and every class gets it.
        self.box_copies = num_outputs if config.class_agnostic else 1
        self.bbox_pred = nn.Linear(fc7_dim, 4 * num_outputs // self.box_copies)
        self.dropout = config.dropout
        # Paper, section 4: zero-mean Gaussians of deviation .01 and .001, biases 0.
        for sibling, deviation in ((self.cls_score, 0.01), (self.bbox_pred, 0.001)):
            nn.init.normal_(sibling.weight, std=deviation)
            nn.init.zeros_(sibling.bias)
        # bbox_pred learns normalised targets; these two turn its output back into deltas. The reference code
        # folds them into the weights at each snapshot instead (train.py:48-82).
        std = torch.tensor(config.delta_std or (1.0, 1.0, 1.0, 1.0))
        self.register_buffer("delta_mean", torch.zeros(num_outputs, 4))
        self.register_buffer("delta_std", std.repeat(num_outputs, 1))

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        x = pooled.flatten(1)  # (R, C * P * P)
        if self.hidden_dtype is not None:
            x = x.to(self.hidden_dtype)
        x = F.dropout(F.relu(self.fc6(x)), self.dropout, self.training)
        x = F.dropout(F.relu(self.fc7(x)), self.dropout, self.training)
        x = x.to(self.cls_score.weight.dtype)
        normalised = self.bbox_pred(x).float().repeat(1, self.box_copies)
        box_deltas = normalised * self.delta_std.flatten() + self.delta_mean.flatten()
        return self.cls_score(x).float(), box_deltas


def _hidden(inputs: int, outputs: int, rank: int | None) -> nn.Module:
    """Build fc6 or fc7: one layer, or with a rank the two thin layers of `fastrcnn.svd`."""
    if rank is not None:
        return nn.Sequential(nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs))
    linear = nn.Linear(inputs, outputs)
    nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
    nn.init.zeros_(linear.bias)
    return linear


class FastRCNN(nn.Module):
    """The network of the paper's figure 1: backbone, RoI pooling, head, and an RPN where the config has one.

    Training and scoring call its parts in order: `features`, then `rpn` where there is one, then `classify`.
    Calling the model is `features` and `classify` in one. It returns the same in both modes.
    """

    rois_per_chunk = 4096
    """RoIs in one pass of the head, in inference. It bounds memory (4096 x 25088 floats are 0.4 GB) and
    changes no result."""

    def __init__(self, config: FastRCNNConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config.backbone, frozen_norm=config.frozen_norm)
        self.head = Head(config, self.backbone.out_channels)
        # Built after the head: with or without an RPN, the head starts from the same random numbers.
        self.rpn: RPN | None = None
        if config.rpn is not None:
            self.rpn = RPN(config.rpn, self.backbone.out_channels, self.backbone.strides)
        use_fast_convolutions(self)
        self.backbone.freeze(config.frozen_stages)

    @property
    def device(self) -> torch.device:
        return self.head.delta_mean.device

    def forward(self, images: Tensor, rois: Tensor) -> tuple[Tensor, Tensor]:
        """Score RoIs of a batch of images.

        Args:
            images: (N, 3, H, W) float32, normalised (`fastrcnn.transform.batch_images`).
            rois: (R, 5) float32, batch index first, in the frame of `images`.

        Returns:
            class_logits (R, K + 1), where column 0 is background; box_deltas (R, 4 * (K + 1)), not
            normalised, for `fastrcnn.boxes.decode`.
        """
        return self.classify(self.features(images), rois)

    def features(self, images: Tensor) -> list[Tensor]:
        """Run the backbone: images (N, 3, H, W) to L maps (N, C, H_l, W_l), finest first."""
        maps: list[Tensor] = self.backbone(images)
        return maps

    def classify(self, features: Sequence[Tensor], rois: Tensor) -> tuple[Tensor, Tensor]:
        """Pool rois (R, 5) from the maps of `features` and run the head; gives what `forward` gives."""
        if torch.is_grad_enabled():
            return self._classify_chunk(features, rois)
        chunks = torch.split(rois, self.rois_per_chunk)
        outputs = [self._classify_chunk(features, chunk) for chunk in chunks]
        class_logits, box_deltas = zip(*outputs, strict=True)
        return torch.cat(class_logits), torch.cat(box_deltas)

    def _classify_chunk(self, features: Sequence[Tensor], rois: Tensor) -> tuple[Tensor, Tensor]:
        config = self.config
        pooled = pool(features, rois, self.backbone.strides, config.pool_size, config.pooling)
        outputs: tuple[Tensor, Tensor] = self.head(pooled)  # of (R, C, P, P)
        return outputs


def with_config(model: FastRCNN, **changes: Any) -> FastRCNN:
    """Give the same network, with shared weights, under a config whose test settings differ."""
    other = copy.copy(model)
    other.config = replace(model.config, **changes)
    return other


def load_pretrained(model: FastRCNN, state_dict: Mapping[str, Tensor]) -> list[str]:
    """Start the backbone, and fc6/fc7 where shapes allow, from a classifier's weights.

    Args:
        model: changed in place.
        state_dict: the weights of the classifier that the backbone was cut from: torchvision's, or those that
            `fastrcnn.backbones.caffe` reads.

    Returns:
        The names of the parts that were loaded: `backbone`, and `fc6`, `fc7` where they fit.

    Raises:
        ValueError: a backbone weight is missing or has another shape.
    """
    body, spec = model.backbone.body, backbone_spec(model.config.backbone)
    given = spec.body_weights(state_dict)
    wanted = body.state_dict()
    wrong = [
        key
        for key, value in wanted.items()
        if not key.endswith("num_batches_tracked")
        and (key not in given or given[key].shape != value.shape)
    ]
    if wrong:
        raise ValueError(
            f"these are not weights of {model.config.backbone}: {len(wrong)} of {len(wanted)} tensors"
            f" missing or of another shape, first {wrong[0]!r}"
        )
    body.load_state_dict({k: v for k, v in given.items() if k in wanted}, strict=False)
    loaded = ["backbone"]
    fc = spec.fc_weights(state_dict)
    for name, layer in (("fc6", model.head.fc6), ("fc7", model.head.fc7)):
        weight = fc.get(f"{name}.weight", torch.empty(0))
        if isinstance(layer, nn.Linear) and weight.shape == layer.weight.shape:
            layer.load_state_dict({p: fc[f"{name}.{p}"] for p in ("weight", "bias")})
            loaded.append(name)
    return loaded
