"""Frozen stages (paper, section 4.5, Table 5): their layers do not change and have no backward pass."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fastrcnn.backbones.backbone import Backbone
from fastrcnn.config import FastRCNNConfig, SolverConfig
from fastrcnn.model import FastRCNN
from fastrcnn.solver import build_optimizer

ROIS = torch.tensor([[0.0, 0, 0, 60, 60], [0.0, 10, 20, 50, 40]])
VGG16_BLOCKS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))


def random_model(backbone: str, frozen_stages: int, **changes: object) -> FastRCNN:
    """Build a model without torchvision's initialisation, which takes longer than the test for vgg16."""
    torch.manual_seed(0)
    numbers = {"fc_dim": 8, "frozen_stages": frozen_stages, "dropout": 0.0} | changes
    with torch.device("meta"):
        model = FastRCNN(FastRCNNConfig.paper(2, backbone=backbone, **numbers))
    model = model.to_empty(device="cpu").train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.05)
        model.head.delta_mean.zero_()
        model.head.delta_std.fill_(1)
    return model


def outputs_of_children(body: nn.Module) -> dict[str, Tensor]:
    """Collect the output of each child in the next forward pass."""
    outputs: dict[str, Tensor] = {}
    for name, child in body.named_children():
        child.register_forward_hook(
            lambda _, __, output, name=name: outputs.__setitem__(name, output)
        )
    return outputs


def grad_flags(module: nn.Module) -> list[bool]:
    return [parameter.requires_grad for parameter in module.parameters()]


@pytest.mark.parametrize(
    ("first_trained", "stages"), [("conv1_1", 0), ("conv2_1", 1), ("conv3_1", 2), ("fc6", 5)]
)
def test_each_row_of_table_5_has_its_number_of_stages(first_trained: str, stages: int) -> None:
    with torch.device("meta"):
        backbone = Backbone("vgg16")
    backbone.freeze(stages)
    frozen = {int(n.split(".")[0]) for n, p in backbone.body.named_parameters() if p.requires_grad}
    below = 5 if first_trained == "fc6" else int(first_trained[4]) - 1
    assert frozen == {n for block in VGG16_BLOCKS[below:] for n in block}


@pytest.mark.parametrize(
    ("backbone", "stages"),
    [("vgg16", 0), ("vgg16", 1), ("vgg16", 2), ("vgg16", 5), ("vgg_m", 1), ("caffenet", 1)],
)
def test_frozen_layers_keep_every_bit_and_get_no_gradient(backbone: str, stages: int) -> None:
    model = random_model(backbone, stages)
    body = model.backbone.body
    frozen = {n for n, p in body.named_parameters() if not p.requires_grad}
    before = {k: v.clone() for k, v in model.state_dict().items()}
    outputs = outputs_of_children(body)
    logits, deltas = model(torch.randn(1, 3, 64, 64), ROIS)
    # The tape starts where training starts: nothing below is differentiated, not even to be thrown away.
    trained = [n for n, child in body.named_children() if any(grad_flags(child))]
    start = list(outputs).index(trained[0]) if trained else len(outputs)
    assert [output.requires_grad for output in outputs.values()] == [
        index >= start for index in range(len(outputs))
    ]
    optimizer = build_optimizer(model, SolverConfig.paper(learning_rate=0.1))
    (logits.square().sum() + deltas.square().sum()).backward()
    optimizer.step()
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert not changed & {f"backbone.body.{name}" for name in frozen}
    assert {"head.fc6.weight", "head.fc7.weight", "head.cls_score.weight"} <= changed
    assert {k for k in changed if k.startswith("backbone")} == {
        f"backbone.body.{n}" for n, p in body.named_parameters() if p.requires_grad
    }
    assert all(p.grad is None for p in body.parameters() if not p.requires_grad)


def test_norms_of_frozen_stages_keep_their_statistics() -> None:
    model = random_model("mobilenet_v2", 2, frozen_norm=False)
    for name, buffer in model.backbone.named_buffers():
        buffer.zero_() if name.endswith(("mean", "tracked")) else buffer.fill_(1)
    model.eval().train()
    model(torch.randn(2, 3, 64, 64), ROIS)
    moved = {
        int(name.split(".")[1])
        for name, buffer in model.backbone.named_buffers()
        if name.endswith("num_batches_tracked") and buffer > 0
    }
    assert moved == set(range(4, 18))  # of features 0 to 17; stages start at 0, 2 and 4


def test_more_stages_than_the_backbone_has_cannot_be_frozen() -> None:
    with torch.device("meta"):
        backbone = Backbone("vgg_m")
    for stages in (-1, 6):
        with pytest.raises(ValueError, match=f"frozen_stages={stages}: vgg_m has 5 stages"):
            backbone.freeze(stages)
