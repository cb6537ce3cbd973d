"""Tests of validation during training: detection as in scoring, without flips and extra scales."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastrcnn.config import FastRCNNConfig, SolverConfig
from fastrcnn.detection import Detections
from fastrcnn.model import FastRCNN, with_config
from pipeline.annotations import read_labelled_images
from pipeline.draw_scenes import draw_split
from pipeline.training.examples import Example
from pipeline.training.validation import (
    RANKED_BY,
    Validation,
    detector_of,
    ranking_metric,
    single_view,
    validate,
)

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


def test_the_solver_says_which_metric_ranks_a_checkpoint() -> None:
    example: Any = object()
    assert ranking_metric(SolverConfig.paper(), [example]) == "val_map"
    assert ranking_metric(SolverConfig.paper(best_by="map50_95"), [example]) == "val_map50_95"
    assert ranking_metric(SolverConfig.paper(best_by="map50_95"), []) == "iteration"


def test_a_validation_has_both_metrics(tmp_path: Path) -> None:
    """A detector that gives each box back, half as high, is right at IoU .5 alone."""
    draw_split(tmp_path, "val", range(2), seed=0, size=(90, 110))
    images = read_labelled_images(str(tmp_path), "val")
    examples = [Example(image, image.gt_boxes) for image in images.images]

    def half(pixels: Any, boxes: Any) -> list[Detections]:
        found = []
        for image in examples:
            if any(image.proposals is given for given in boxes):
                low = torch.from_numpy(image.proposals.copy())
                low[:, 3] = (low[:, 1] + low[:, 3]) / 2
                labels = torch.from_numpy(image.image.gt_labels)
                found.append(Detections(low, labels, torch.ones(len(low))))
        return found

    validation = validate(half, len(images.classes), examples)
    metrics = validation.metrics(images.classes)
    assert isinstance(validation, Validation)
    assert [metrics[name] for name in RANKED_BY.values()] == [1.0, pytest.approx(0.1)]


def test_with_config_shares_the_network() -> None:
    model = FastRCNN(CONFIG).eval()
    other = with_config(model, **VIEWS)
    assert (model.config, other.config.test_scales) == (CONFIG, (48,))
    assert other.head is model.head
    assert not other.training
