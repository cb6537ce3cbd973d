"""A checkpoint of torchvision's detector, made without training, scores like torchvision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor

from fastrcnn.checkpoint import load_checkpoint
from pipeline import Detector
from pipeline.config.tools import ImportWeightsConfig
from pipeline.errors import UserError
from pipeline.import_weights import run

NAME = "fasterrcnn_mobilenet_v3_large_320_fpn"


def network(num_classes: int = 91) -> Any:
    torch.manual_seed(1)
    build = getattr(torchvision.models.detection, NAME)
    return build(weights=None, weights_backbone=None, num_classes=num_classes).eval()


def safetensors(folder: Path, net: Any, name: str = f"{NAME}.safetensors") -> str:
    tensors: dict[str, Tensor] = {k: v.contiguous() for k, v in net.state_dict().items()}
    save_file(tensors, folder / name)
    return str(folder / name)


def config(weights: str, output: Path, **given: Any) -> ImportWeightsConfig:
    return ImportWeightsConfig(weights=weights, output=str(output), **given)


@torch.inference_mode()
def test_the_checkpoint_has_91_classes_and_finds_torchvisions_boxes(tmp_path: Path) -> None:
    net = network()
    net.rpn.score_thresh = 0.05
    net.roi_heads.box_predictor.cls_score.bias[3] = 4.0
    run(config(safetensors(tmp_path, net), tmp_path / "coco"))
    checkpoint = load_checkpoint(tmp_path / "coco")
    assert len(checkpoint.classes) == 90
    assert checkpoint.classes[2] == "car"
    assert checkpoint.model.config.scale == 320, "the file's name says which of the two it is"
    assert checkpoint.config["training"]["detector"] == NAME
    image = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    found = Detector(str(tmp_path / "coco"), min_score=0)(image)
    (wanted,) = net([torch.from_numpy(image).permute(2, 0, 1) / 255])
    cars = wanted["labels"] == 3
    assert int(cars.sum()) > 5
    assert len(found) == len(cars)
    np.testing.assert_allclose(found.scores, wanted["scores"], atol=1e-2)  # bfloat16 on some CPUs


def test_other_classes_need_names_and_two_detectors_are_told_apart(tmp_path: Path) -> None:
    weights = safetensors(tmp_path, network(4), "mine.safetensors")
    with pytest.raises(UserError, match="weights have 3 classes, not those of COCO.*Give 3 names"):
        run(config(weights, tmp_path / "mine"))
    with pytest.raises(UserError, match="are 2 different names, and the weights have 3 classes"):
        run(config(weights, tmp_path / "mine", classes=("a", "b")))
    run(config(weights, tmp_path / "mine", classes=("a", "b", "c")))
    assert load_checkpoint(tmp_path / "mine").model.config.scale == 800
    run(config(weights, tmp_path / "small", classes=("a", "b", "c"), detector=NAME))
    small = load_checkpoint(tmp_path / "small")
    assert (small.classes, small.model.config.scale) == (("a", "b", "c"), 320)
    with pytest.raises(UserError, match="already holds a checkpoint"):
        run(config(weights, tmp_path / "small", classes=("a", "b", "c")))
    with pytest.raises(UserError, match="--detector yolo: is no detector that this program knows"):
        run(config(weights, tmp_path / "other", detector="yolo"))


def test_a_dry_run_writes_nothing_and_a_classifier_is_refused(tmp_path: Path) -> None:
    weights = safetensors(tmp_path, network())
    run(config(weights, tmp_path / "coco", dry_run=True))
    assert not (tmp_path / "coco" / "config.json").exists()
    torch.save(torchvision.models.squeezenet1_1().state_dict(), tmp_path / "classifier.pth")
    with pytest.raises(UserError, match="expected a Faster R-CNN of torchvision"):
        run(config(str(tmp_path / "classifier.pth"), tmp_path / "coco"))
