"""Tests of --weights: files that are accepted, and errors for others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fastrcnn.checkpoint import save_checkpoint
from fastrcnn.config import FastRCNNConfig, ProposalConfig
from fastrcnn.model import FastRCNN
from pipeline.errors import UserError
from pipeline.training.initial_weights import initial_model
from tests.fastrcnn.caffe_file import caffemodel

SHAPES = {"conv1": (96, 3, 7, 7), "conv2": (256, 96, 5, 5)} | {
    f"conv{n}": (512, 512 if n > 3 else 256, 3, 3) for n in (3, 4, 5)
}
CONFIG = FastRCNNConfig.paper(2, backbone="vgg_m", fc_dim=8)
CLASSES = ("cat", "dog")
TINY = FastRCNNConfig.paper(2, backbone="tiny", fc_dim=8)


def checkpoint(folder: Path, config: FastRCNNConfig, classes: tuple[str, ...]) -> FastRCNN:
    torch.manual_seed(7)
    model = FastRCNN(config)
    save_checkpoint(folder, model, classes=classes, proposals=ProposalConfig(), training={})
    return model


def test_a_checkpoint_of_the_same_classes_is_copied_completely(tmp_path: Path) -> None:
    given = checkpoint(tmp_path, TINY, CLASSES).state_dict()
    model = initial_model(TINY, str(tmp_path), 0, CLASSES)
    assert all(torch.equal(value, given[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("classes", [("dog", "cat"), ("cat", "dog", "cow")])
def test_with_other_classes_the_output_layers_are_random_and_logged(
    tmp_path: Path, classes: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    given = checkpoint(tmp_path, TINY, CLASSES).state_dict()
    config = FastRCNNConfig.paper(len(classes), backbone="tiny", fc_dim=8)
    with caplog.at_level("INFO"):
        model = initial_model(config, str(tmp_path), 0, classes)
    state = model.state_dict()
    assert torch.equal(state["head.fc6.weight"], given["head.fc6.weight"])
    scores = state["head.cls_score.weight"]
    assert scores.shape[0] == len(classes) + 1
    assert not torch.equal(scores[:3], given["head.cls_score.weight"])
    assert (
        "drawn from the seed: head.bbox_pred.bias, head.bbox_pred.weight, head.cls_score"
        in caplog.text
    )


def test_a_checkpoint_of_another_backbone_is_refused(tmp_path: Path) -> None:
    checkpoint(tmp_path, TINY, CLASSES)
    with pytest.raises(UserError, match="is a tiny detector, expected vgg_m"):
        initial_model(CONFIG, str(tmp_path), 0, CLASSES)


def test_a_published_caffemodel_is_converted(tmp_path: Path) -> None:
    layers = {
        name: (torch.full(shape, 0.5), torch.ones(shape[0])) for name, shape in SHAPES.items()
    }
    layers |= {
        "fc6": (torch.ones(8, 512 * 36), torch.ones(8)),
        "fc7": (torch.ones(8, 8), torch.ones(8)),
    }
    path = tmp_path / "VGG_CNN_M_1024.caffemodel"
    path.write_bytes(caffemodel(layers, generation=1))
    model = initial_model(CONFIG, str(path), 0, CLASSES)
    state = model.state_dict()
    assert bool((state["backbone.body.conv5.weight"] == 0.5).all())
    assert bool((state["head.fc7.weight"] == 1).all())
    # conv1 is converted to our input: 255 * standard deviation of red, green, blue.
    expected = torch.tensor([0.229, 0.224, 0.225]) * 255 * 0.5
    torch.testing.assert_close(state["backbone.body.conv1.weight"][7, :, 3, 3], expected)


def test_unusable_weights_are_refused_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "cut.caffemodel"
    path.write_bytes(caffemodel({"conv1": (torch.ones(2, 3, 2, 2), torch.ones(2))})[:-9])
    with pytest.raises(UserError, match="is damaged"):
        initial_model(CONFIG, str(path), 0, CLASSES)
    with pytest.raises(UserError, match=r"only for vgg_m, vgg16"):
        initial_model(FastRCNNConfig.paper(2, backbone="tiny"), str(path), 0, CLASSES)
    with pytest.raises(UserError, match=r"VGG_CNN_M_1024.caffemodel"):
        initial_model(CONFIG, "imagenet", 0, CLASSES)
