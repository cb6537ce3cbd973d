"""Checkpoints: a complete one is loaded, any other is refused with the reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fastrcnn.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from fastrcnn.config import FastRCNNConfig, ProposalConfig
from fastrcnn.model import FastRCNN

CONFIG = FastRCNNConfig.modern(2, backbone="tiny", fc_dim=16)
CLASSES = ("cat", "dog")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = FastRCNN(CONFIG)
    save_checkpoint(
        tmp_path / "c",
        model,
        classes=CLASSES,
        proposals=ProposalConfig(name="grid"),
        training={"seed": 1},
    )
    return tmp_path / "c"


def test_a_loaded_checkpoint_equals_the_saved_one(folder: Path) -> None:
    torch.manual_seed(0)
    expected = FastRCNN(CONFIG).state_dict()
    checkpoint = load_checkpoint(folder)
    assert checkpoint.classes == CLASSES
    assert checkpoint.model.config == CONFIG
    assert checkpoint.proposals == ProposalConfig(name="grid")
    assert not checkpoint.model.training
    assert checkpoint.config["training"] == {"seed": 1}
    assert len(checkpoint.model_id) == 16
    for name, value in checkpoint.model.state_dict().items():
        assert torch.equal(value, expected[name])


def test_a_setting_that_an_old_checkpoint_lacks_has_its_default(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config["model"]["fc7_dim"]
    (folder / "config.json").write_text(json.dumps(config))
    assert load_checkpoint(folder).model.config == CONFIG


def test_different_weights_have_different_ids(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    save_checkpoint(
        tmp_path / "d", FastRCNN(CONFIG), classes=CLASSES, proposals=ProposalConfig(), training={}
    )
    assert load_checkpoint(folder).model_id != load_checkpoint(tmp_path / "d").model_id


def test_a_truncated_file_is_refused(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match="the file is truncated or modified"):
        load_checkpoint(folder)


def test_one_flipped_bit_is_refused(folder: Path) -> None:
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-7] ^= 1
    (folder / "model.safetensors").write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match="the file is truncated or modified"):
        load_checkpoint(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("format_version", 99, "format_version 99"),
        ("classes", ["cat"], "names 1 classes, but its model has 2"),
        ("model", {"num_classes": 2, "wings": 3}, "unknown model settings: wings"),
        ("model", None, "not the config of a checkpoint"),
        ("model", {"num_classes": 2, "rpn": 5}, "rpn=5: expected null or a RPNConfig"),
        ("model", {"num_classes": 2, "rpn": {"sides": [4, 8]}}, "not the config of a checkpoint"),
        ("model", {"num_classes": 2, "rpn": {"anchors_per_image": 2.5}}, r"anchors_per_image=2\.5"),
        ("proposals", {"name": "grid", "shapes": [[0.5, 0.0]]}, "each a number above 0"),
        ("proposals", {"name": "grid", "shapes": [[0.5]]}, r"shapes=.*lists of 2 values"),
        ("proposals", {"name": "rpn"}, "but its model has no RPN"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(
    folder: Path, key: str, value: object, reason: str
) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {key: value}))
    with pytest.raises(CheckpointError, match=reason):
        load_checkpoint(folder)


def test_a_config_that_is_not_json_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text("<html>")
    with pytest.raises(CheckpointError, match="not JSON"):
        load_checkpoint(folder)


def test_weights_of_another_shape_are_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["model"]["fc_dim"] = 32
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="does not match config.json: tensor"):
        load_checkpoint(folder)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    model = FastRCNN(CONFIG)
    with torch.no_grad():
        model.head.fc6.weight[0, 0] = float("nan")
    save_checkpoint(tmp_path, model, classes=CLASSES, proposals=ProposalConfig(), training={})
    with pytest.raises(CheckpointError, match="not finite"):
        load_checkpoint(tmp_path)


def test_each_class_needs_a_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 class names for 2"):
        save_checkpoint(
            tmp_path, FastRCNN(CONFIG), classes=("cat",), proposals=ProposalConfig(), training={}
        )
