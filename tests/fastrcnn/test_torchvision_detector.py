"""torchvision's detectors with random weights are the oracle: no weights are downloaded."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from fastrcnn.backbones import backbone_spec
from fastrcnn.detection import detect
from fastrcnn.model import FastRCNN, with_config
from fastrcnn.torchvision_detector import (
    DetectorError,
    coco_detector,
    coco_names,
    find_detector,
    fit_norms,
    from_torchvision,
    is_detector,
    iter_detectors,
    norm_eps,
    recognise,
    rename,
)

NAMES = [detector.name for detector in iter_detectors()]
SIZES = [(96, 128), (131, 77), (64, 200), (150, 150)]
SCALE, NUM_PROPOSALS = 160, 60


@lru_cache
def theirs(name: str, num_classes: int = 91) -> Any:
    """Build torchvision's detector with random weights, random norms, and objects in many places."""
    torch.manual_seed(0)
    build = getattr(torchvision.models.detection, name)
    net = build(weights=None, weights_backbone=None, num_classes=num_classes).eval()
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 2)
            layer.weight.data.uniform_(0.7, 1.3)
            layer.bias.data.normal_(0, 0.1)
    _shrink(net)
    heads = net.roi_heads.box_predictor
    spreads = {
        net.rpn.head.cls_logits: 2.0,
        net.rpn.head.bbox_pred: 0.3,
        heads.cls_score: 2.0,
        heads.bbox_pred: 1.0,
    }
    with torch.no_grad():
        for layer, spread in spreads.items():
            _set_spread(net, layer, spread)
    return net


def _set_spread(net: Any, layer: Any, spread: float) -> None:
    """Scale the weights of a layer so that its outputs on one image have this standard deviation."""
    outputs: list[Tensor] = []
    hook = layer.register_forward_hook(lambda _m, _i, output: outputs.append(output.flatten()))
    net(list(images()[0][None].permute(0, 3, 1, 2) / 255))
    hook.remove()
    layer.weight.mul_(spread / torch.cat(outputs).std())


def _shrink(net: Any) -> None:
    """Make a detector of torchvision small enough for a test: a smaller scale and fewer proposals."""
    net.transform.min_size, net.transform.max_size = (SCALE,), 2 * SCALE
    _limit_proposals(net.rpn)


def _limit_proposals(rpn: Any) -> None:
    for limits in (rpn._pre_nms_top_n, rpn._post_nms_top_n):
        limits["testing"] = NUM_PROPOSALS


def ours(name: str, state_dict: Any) -> FastRCNN:
    """Build our form of a detector, as small as `_shrink` makes torchvision's."""
    model = from_torchvision(state_dict, detector=find_detector(name))
    _limit_proposals(model.rpn)
    return with_config(model, scale=SCALE, max_size=2 * SCALE)


def images(seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randint(0, 256, (*size, 3), dtype=torch.uint8, generator=generator) for size in SIZES
    ]


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_boxes_labels_and_scores_are_torchvisions(name: str) -> None:
    net = theirs(name)
    model = ours(name, net.state_dict())
    for image in images():
        (wanted,) = net([image.permute(2, 0, 1) / 255])
        (found,) = detect(model, [image])
        assert len(wanted["boxes"]) > 20
        torch.testing.assert_close(found.scores, wanted["scores"], rtol=1e-4, atol=1e-4)
        # Boxes with nearly the same score may change places, so each is compared with its counterpart.
        differences = (found.boxes[:, None] - wanted["boxes"]).abs().amax(dim=2)
        differences += 1e6 * (found.labels[:, None] != wanted["labels"])
        pairs = differences.argmin(dim=1)
        assert sorted(pairs.tolist()) == list(range(len(wanted["boxes"])))
        assert differences.amin(dim=1).max() < 1e-3
        torch.testing.assert_close(found.scores, wanted["scores"][pairs], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_recognised_by_its_keys_and_shapes(name: str) -> None:
    state_dict = theirs(name).state_dict()
    assert is_detector(state_dict)
    found = recognise(state_dict)
    assert (found.backbone, found.rpn["sides"]) == (
        find_detector(name).backbone,  # type: ignore[union-attr]
        find_detector(name).rpn["sides"],  # type: ignore[union-attr]
    )


def test_the_keys_of_the_published_file_are_those_of_old_torchvision() -> None:
    """fasterrcnn_resnet50_fpn_coco-258fb6c6.pth was written before torchvision nested its convolutions."""
    state_dict = theirs("fasterrcnn_resnet50_fpn").state_dict()
    old = {
        k.replace("_blocks.0.0.", "_blocks.0.").replace("rpn.head.conv.0.0.", "rpn.head.conv."): v
        for k, v in state_dict.items()
        if not k.endswith("num_batches_tracked")
    }
    assert "rpn.head.conv.weight" in old
    assert set(rename(old)) == {
        k for k in rename(state_dict) if not k.endswith("num_batches_tracked")
    }
    detector = recognise(old)
    assert detector.name == "fasterrcnn_resnet50_fpn"
    assert norm_eps(detector, old) == 0.0
    assert norm_eps(detector, state_dict) == 1e-5


def test_a_norm_gives_the_same_values_with_another_eps() -> None:
    model = from_torchvision(theirs("fasterrcnn_resnet50_fpn").state_dict())
    name = "backbone.body.bn1"
    norm = model.get_submodule(name)
    x = torch.randn(1, 64, 2, 2)
    tensors = {f"{name}.{k}": v.clone() for k, v in norm.state_dict().items()}
    tensors[f"{name}.running_var"].fill_(1e-6)  # smaller than our eps
    exact = FrozenBatchNorm2d(64, eps=0.0)
    exact.load_state_dict({k.removeprefix(f"{name}."): v for k, v in tensors.items()})
    fitted = fit_norms(tensors, model, 0.0)
    plain = FrozenBatchNorm2d(64, eps=1e-5)
    plain.load_state_dict({k.removeprefix(f"{name}."): v for k, v in fitted.items()})
    torch.testing.assert_close(plain(x), exact(x), rtol=1e-5, atol=1e-4)
    tensors[f"{name}.running_var"][3] = 0
    with pytest.raises(DetectorError, match="running_var is 0 somewhere, which needs an eps above"):
        fit_norms(tensors, model, 0.0)


def test_other_detectors_and_other_shapes_are_refused_by_name() -> None:
    build = torchvision.models.detection.retinanet_resnet50_fpn
    with torch.device("meta"):
        retina = build(weights=None, weights_backbone=None).state_dict()
    assert is_detector(retina)
    with pytest.raises(DetectorError, match="RetinaNet, FCOS and SSD have other heads"):
        recognise(retina)
    state_dict = dict(theirs("fasterrcnn_resnet50_fpn").state_dict())
    state_dict["rpn.head.cls_logits.weight"] = torch.zeros(9, 256, 1, 1)
    expected = (
        r"most similar one is fasterrcnn_resnet50_fpn, but 1 tensors differ: rpn.head.cls_logits.weight"
        r" has shape \[9, 256, 1, 1\], expected \[3, 256, 1, 1\]"
    )
    with pytest.raises(DetectorError, match=expected):
        recognise(state_dict)
    assert not is_detector(
        from_torchvision(theirs("fasterrcnn_resnet50_fpn").state_dict()).state_dict()
    )


def test_the_heads_of_a_mask_r_cnn_are_left_out() -> None:
    build = torchvision.models.detection.maskrcnn_resnet50_fpn
    with torch.device("meta"):
        state_dict = build(weights=None, weights_backbone=None).state_dict()
    assert recognise(state_dict).name == "fasterrcnn_resnet50_fpn"


def test_the_coco_categories_have_different_names_and_keep_their_labels() -> None:
    names = coco_names(90)
    assert names is not None
    assert (names[0], names[11], names[12], names[89]) == (
        "person",
        "N/A 12",
        "stop sign",
        "toothbrush",
    )
    assert len(set(names)) == 90
    assert coco_names(20) is None


def test_each_backbone_has_its_coco_detector_or_says_which_have_one() -> None:
    assert coco_detector(backbone_spec("resnet50_fpn_v2")).name == "fasterrcnn_resnet50_fpn_v2"
    mobile = coco_detector(backbone_spec("mobilenet_v3_large_fpn"))
    assert mobile.name == "fasterrcnn_mobilenet_v3_large_fpn"
    with pytest.raises(
        DetectorError, match="no COCO detector on vgg16; it has detectors on resnet"
    ):
        coco_detector(backbone_spec("vgg16"))
