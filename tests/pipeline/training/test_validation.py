"""Validation is the detection that scoring does, but for looking again."""

from __future__ import annotations

import numpy as np
import torch

from fastrcnn.config import FastRCNNConfig
from fastrcnn.detection import Detections
from fastrcnn.model import FastRCNN, with_config
from pipeline.training.validation import detector_of, upright_only

CONFIG = FastRCNNConfig(num_classes=2, backbone="tiny", fc_dim=16, scale=64, max_size=100)
LOOKS = {"test_flips": True, "test_scales": (48,)}


def found(model: FastRCNN) -> Detections:
    pixels = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
    boxes = np.array([[5, 8, 40, 50], [30, 20, 85, 66]], np.float32)
    return detector_of(model)([pixels], [boxes])[0]


def test_while_training_each_image_is_looked_at_once_however_often_it_is_at_test() -> None:
    torch.manual_seed(0)
    plain = FastRCNN(CONFIG).eval()
    often = with_config(plain, **LOOKS)
    assert not torch.equal(found(often).scores, found(plain).scores)
    for once, expected in zip(found(upright_only(often)), found(plain), strict=True):
        assert torch.equal(once, expected)


def test_another_config_is_of_the_same_network() -> None:
    model = FastRCNN(CONFIG).eval()
    other = with_config(model, **LOOKS)
    assert (model.config, other.config.test_scales) == (CONFIG, (48,))
    assert other.head is model.head
    assert not other.training
