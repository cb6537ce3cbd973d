"""Tests of the network that a file of weights belongs to."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
import torchvision

from fastrcnn.checkpoint import save_checkpoint
from fastrcnn.config import FastRCNNConfig, ProposalConfig
from fastrcnn.model import FastRCNN
from pipeline.training.weights_kind import numbers_of_weights


@pytest.mark.parametrize(
    ("classifier", "preferred", "backbone"),
    [
        ("mobilenet_v2", (), "mobilenet_v2"),
        ("squeezenet1_0", ("mobilenet_v2",), "squeezenet1_0"),
        ("resnet50", (), "resnet50"),
        ("resnet50", ("resnet50_fpn",), "resnet50_fpn"),
    ],
)
def test_a_published_state_dict_tells_its_network(
    tmp_path: Path, classifier: str, preferred: tuple[str, ...], backbone: str
) -> None:
    state_dict = torchvision.models.get_model(classifier, weights=None).state_dict()
    for name, write in (("w.pth", torch.save), ("w.safetensors", safetensors.torch.save_file)):
        write(state_dict, tmp_path / name)
        found = numbers_of_weights(str(tmp_path / name), preferred)
        assert found == {"model.backbone": backbone}


def test_a_state_dict_that_a_training_program_wrapped_tells_its_network(tmp_path: Path) -> None:
    state_dict = torchvision.models.get_model("squeezenet1_0", weights=None).state_dict()
    wrapped = {"model": {f"module.{k}": v for k, v in state_dict.items()}, "epoch": 3}
    torch.save(wrapped, tmp_path / "w.pth")
    found = numbers_of_weights(str(tmp_path / "w.pth"), ("mobilenet_v2",))
    assert found == {"model.backbone": "squeezenet1_0"}


def test_a_detector_tells_its_network_and_the_width_of_its_head() -> None:
    small = {"model.backbone": "mobilenet_v3_large_stride32", "model.fc_dim": 1024}
    assert numbers_of_weights("coco", ("mobilenet_v2",)) == small
    assert numbers_of_weights("coco", ("mobilenet_v2",), "mobilenet_v3_large_fpn") == small
    large = {"model.backbone": "resnet50_fpn", "model.fc_dim": 1024}
    assert numbers_of_weights("coco", ("resnet50_fpn",)) == large
    assert numbers_of_weights("coco", ("mobilenet_v2",), "resnet50_fpn") == large
    assert numbers_of_weights("coco", ("mobilenet_v2",), "vgg16") == {}  # refused later


def test_a_checkpoint_tells_its_network_and_the_width_of_its_head(tmp_path: Path) -> None:
    config = FastRCNNConfig.modern(1, backbone="tiny", fc_dim=24)
    save_checkpoint(
        tmp_path, FastRCNN(config), classes=("a",), proposals=ProposalConfig(), training={}
    )
    found = numbers_of_weights(str(tmp_path), ())
    assert found == {"model.backbone": "tiny", "model.fc_dim": 24}


@pytest.mark.parametrize("name", ["imagenet", "none", "/nowhere/weights.pth", "net.caffemodel"])
def test_other_weights_tell_nothing(name: str) -> None:
    assert numbers_of_weights(name, ()) == {}


@pytest.mark.parametrize("content", [b"", b"no weights", b"\x80\x02}q\x00."])
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_a_file_that_cannot_be_read_tells_nothing(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    assert numbers_of_weights(str(tmp_path / name), ()) == {}


def test_weights_of_no_known_network_tell_nothing(tmp_path: Path) -> None:
    torch.save({"layer.weight": torch.zeros(2, 2)}, tmp_path / "w.pth")
    torch.save([torch.zeros(2)], tmp_path / "list.pth")
    assert numbers_of_weights(str(tmp_path / "w.pth"), ()) == {}
    assert numbers_of_weights(str(tmp_path / "list.pth"), ()) == {}
