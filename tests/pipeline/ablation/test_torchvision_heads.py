"""Tests that `TorchvisionHeads` equals torchvision's GeneralizedRCNN on given proposals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from fastrcnn.config import FastRCNNConfig, RPNConfig
from fastrcnn.model import FastRCNN
from fastrcnn.proposals import grid
from pipeline.ablation.torchvision_heads import TorchvisionHeads

SIZE, SCALED = (128, 193), (64, 96)
"""Image size (height, width) before and after scaling. Each axis has another factor. There is no padding,
because GeneralizedRCNN gives its heads the size without padding."""


class Features(nn.Module):
    """A backbone that gives feature maps by name, like torchvision's backbones."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {str(index): level for index, level in enumerate(self.backbone(images))}


class Given(nn.Module):
    """Replaces the RPN: gives the same proposals (P, 4), model frame, for every image."""

    def __init__(self, proposals: Tensor) -> None:
        super().__init__()
        self.proposals = proposals

    def forward(self, images: Any, *_: Any) -> tuple[list[Tensor], dict[str, Tensor]]:
        return [self.proposals] * len(images.image_sizes), {}


@pytest.mark.parametrize("rpn", [None, RPNConfig()])
def test_on_given_proposals_it_equals_generalized_rcnn(rpn: RPNConfig | None) -> None:
    torch.manual_seed(0)
    small = {"backbone": "tiny", "scale": 64, "fc_dim": 16, "score_threshold": 0.0}
    peer = TorchvisionHeads(FastRCNN(FastRCNNConfig.modern(2, **small, rpn=rpn)))
    proposals = torch.from_numpy(grid(SIZE, max_boxes=60))
    scaled = proposals * torch.tensor([SCALED[1] / SIZE[1], SCALED[0] / SIZE[0]] * 2)
    theirs = GeneralizedRCNN(Features(peer.backbone), Given(scaled), peer.heads, peer.transform)
    images = [torch.rand(3, *SIZE), torch.rand(3, *SIZE)]
    boxes = torch.tensor([[20.0, 10, 90, 100], [100, 30, 180, 120]])
    targets = [{"boxes": boxes, "labels": torch.tensor([1, 2])}] * 2

    torch.manual_seed(1)
    expected = theirs.train()(images, targets)
    torch.manual_seed(1)
    detections, losses = peer.train()(images, [proposals] * 2, targets)
    assert losses == expected
    assert (detections, set(losses)) == ([], {"loss_classifier", "loss_box_reg"})

    expected = theirs.eval()(images)
    detections, losses = peer.eval()(images, [proposals] * 2)
    assert losses == {}
    for ours, other in zip(detections, expected, strict=True):
        assert len(ours["boxes"]) > 20
        for name in ("boxes", "labels", "scores"):
            assert torch.equal(ours[name], other[name])
