"""Tests of validation during training: detection as in scoring, without flips and extra scales."""

from __future__ import annotations

import numpy as np
import torch

from fastrcnn.config import FastRCNNConfig
from fastrcnn.detection import Detections
from fastrcnn.model import FastRCNN, with_config
from pipeline.training.validation import detector_of, single_view

CONFIG = FastRCNNConfig(num_classes=2, backbone="tiny", fc_dim=16, scale=64, max_size=100)
VIEWS = {"test_flips": True, "test_scales": (48,)}


def detected(model: FastRCNN) -> Detections:
    pixels = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
    boxes = np.array([[5, 8, 40, 50], [30, 20, 85, 66]], np.float32)
    return detector_of(model)([pixels], [boxes])[0]


def test_during_training_an_image_has_one_view_whatever_the_test_flips_and_scales() -> None:
    torch.manual_seed(0)
    plain = FastRCNN(CONFIG).eval()
    many = with_config(plain, **VIEWS)
    assert not torch.equal(detected(many).scores, detected(plain).scores)
    for one, expected in zip(detected(single_view(many)), detected(plain), strict=True):
        assert torch.equal(one, expected)


def test_with_config_shares_the_network() -> None:
    model = FastRCNN(CONFIG).eval()
    other = with_config(model, **VIEWS)
    assert (model.config, other.config.test_scales) == (CONFIG, (48,))
    assert other.head is model.head
    assert not other.training
