"""The region proposal network: hand-computed anchors and samples, and a detector without given proposals."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.rpn import concat_box_prediction_layers
from torchvision.ops import box_iou

from fastrcnn.anchors import Anchors
from fastrcnn.backbones import BACKBONE_SPECS
from fastrcnn.canary import check_canary
from fastrcnn.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from fastrcnn.config import BACKBONES, FastRCNNConfig, ProposalConfig, RPNConfig, standard_sides
from fastrcnn.detection import detect, detect_counting, propose_learned
from fastrcnn.loss import Target, training_loss
from fastrcnn.model import FastRCNN
from fastrcnn.rpn import RPN, match_anchors
from fastrcnn.svd import compress

SIDES = ((16.0, 24.0, 36.0),)


def config(**changes: object) -> FastRCNNConfig:
    rpn = RPNConfig(sides=SIDES, ratios=(0.5, 1.0, 2.0), pre_nms_train=300, max_proposals_test=60)
    numbers = {"fc_dim": 32, "scale": 96, "max_size": 160, "rois_per_image": 32, "rpn": rpn}
    return FastRCNNConfig.modern(2, backbone="tiny", **(numbers | changes))


def scene(seed: int) -> tuple[Tensor, Target]:
    """Draw one bright box and one dark box on noise."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(90, 130, (96, 128, 3), dtype=torch.uint8, generator=generator)
    boxes = []
    for index, colour in enumerate(((250, 220, 30), (10, 20, 60))):
        width, height = (int(n) for n in torch.randint(16, 34, (2,), generator=generator))
        x = int(torch.randint(64 * index, 64 * index + 64 - width, (), generator=generator))
        y = int(torch.randint(0, 96 - height, (), generator=generator))
        pixels[y : y + height, x : x + width] = torch.tensor(colour, dtype=torch.uint8)
        boxes.append([x, y, x + width, y + height])
    return pixels, Target(
        torch.zeros(0, 4), torch.tensor(boxes, dtype=torch.float32), torch.tensor([1, 2])
    )


def test_anchors_lie_on_the_cells_that_the_stride_says() -> None:
    anchors = Anchors(((8.0,), (32.0,)), (1.0, 4.0), (4, 16)).on_maps(
        [(1, 2), (1, 1)], torch.device("cpu")
    )
    assert anchors[0].tolist() == [
        [-4, -4, 4, 4], [-2, -8, 2, 8], [0, -4, 8, 4], [2, -8, 6, 8],
    ]  # fmt: skip
    assert anchors[1].tolist() == [[-16, -16, 16, 16], [-8, -32, 8, 32]]


def test_small_anchors_keep_their_shape() -> None:
    (cell,) = Anchors(((1.0,),), (16.0,), (8,)).on_maps([(1, 1)], torch.device("cpu"))
    assert cell.tolist() == [[-0.125, -2, 0.125, 2]]  # torchvision's rounding makes it no box


def test_matches_equal_torchvisions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastrcnn.rpn.GT_AT_ONCE", 3)
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(300, 2, generator=generator) * 60
    anchors = torch.cat(
        [corners, corners + 5 + 25 * torch.rand(300, 2, generator=generator)], dim=1
    )
    gt_boxes = anchors[:10] + torch.rand(10, 4, generator=generator) * 4
    labels, matches = match_anchors(anchors, gt_boxes, 0.7, 0.3)
    expected = Matcher(0.7, 0.3, allow_low_quality_matches=True)(box_iou(gt_boxes, anchors))
    assert torch.equal(labels == 1, expected >= 0)
    assert torch.equal(labels == 0, expected == Matcher.BELOW_LOW_THRESHOLD)
    assert torch.equal(matches[labels == 1], expected[expected >= 0])
    assert {-1, 0, 1} == set(labels.tolist())


def test_an_object_that_no_anchor_touches_makes_no_foreground() -> None:
    anchors = torch.tensor([[0.0, 0, 4, 4], [16, 16, 20, 20]])
    labels, _ = match_anchors(anchors, torch.tensor([[8.0, 8, 10, 10]]), 0.7, 0.3)
    assert labels.tolist() == [0, 0]
    labels, _ = match_anchors(anchors, torch.zeros(0, 4), 0.7, 0.3)
    assert labels.tolist() == [0, 0]


def test_anchors_in_an_ignored_region_are_neither_foreground_nor_background() -> None:
    anchors = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [24, 0, 34, 10]])
    gt_boxes, region = torch.tensor([[20.0, 0, 30, 10]]), torch.tensor([[18.0, 0, 55, 10]])
    labels, _ = match_anchors(anchors, gt_boxes, 0.7, 0.3, region)
    assert labels.tolist() == [0, 1, -1, -1]
    assert match_anchors(anchors, gt_boxes, 0.7, 0.3)[0].tolist() == [0, 1, 0, -1]


def test_a_region_over_the_whole_image_leaves_only_anchors_on_objects() -> None:
    model = FastRCNN(config()).eval()
    pixels, target = scene(0)
    region = torch.tensor([[0.0, 0, 128, 96]])
    plain, ignored = (
        training_loss(model, [pixels], [one]).rpn
        for one in (target, target._replace(ignored=region))
    )
    assert plain is not None
    assert ignored is not None
    assert 0 < ignored.objectness < plain.objectness / 4  # the other terms were background


def test_anchors_and_outputs_are_in_torchvisions_order() -> None:
    torch.manual_seed(0)
    rpn = RPN(RPNConfig(sides=((8.0, 12.0), (32.0, 48.0)), ratios=(0.5, 2.0)), 6, (4, 8))
    maps = [torch.randn(2, 6, 8, 12), torch.randn(2, 6, 4, 6)]
    predictions = rpn(maps, [(32, 48), (32, 48)])
    objectness, deltas = concat_box_prediction_layers(*rpn.head(maps))
    torch.testing.assert_close(torch.cat([p.objectness for p in predictions]), objectness.flatten())
    torch.testing.assert_close(torch.cat([p.deltas for p in predictions]), deltas)
    own = torch.cat(rpn.anchor_generator.on_maps([(8, 12), (4, 6)], torch.device("cpu")))
    assert torch.equal(predictions[1].anchors, own)
    assert predictions[0].level_counts == [8 * 12 * 4, 4 * 6 * 4]


def test_padding_has_no_anchors() -> None:
    rpn = RPN(RPNConfig(sides=SIDES, ratios=(1.0,)), 6, (8,))
    (one,) = rpn([torch.randn(1, 6, 12, 16)], [(33, 64)])
    assert one.level_counts == [5 * 8 * 3]  # a cell that begins inside counts
    assert one.anchors[:, 1::2].mean(dim=1).max() == 32


def test_losses_equal_hand_computed_ones() -> None:
    """There are two anchors, and one equals the object. Zero logits have a loss of ln 2 per anchor."""
    rpn = RPN(RPNConfig(sides=((8.0,),), ratios=(1.0,), anchors_per_image=4), 1, (8,))
    with torch.no_grad():
        for parameter in rpn.parameters():
            parameter.zero_()
        rpn.head.bbox_pred.bias[0] = 0.5  # dx
    predictions = rpn([torch.zeros(1, 1, 1, 2)], [(8, 16)])
    gt_boxes = [torch.tensor([[4.0, -4, 12, 4]])]  # the second anchor
    losses = rpn.losses(predictions, gt_boxes, [torch.Generator().manual_seed(0)])
    ln2 = torch.log(torch.tensor(2.0))
    torch.testing.assert_close(
        losses.objectness, 2 * ln2 / 4
    )  # two anchors there are, four asked for
    torch.testing.assert_close(losses.box, torch.tensor((0.5 - 0.5 / 9) / 4))
    empty = rpn.losses(predictions, [torch.zeros(0, 4)], [torch.Generator().manual_seed(0)])
    assert empty.box == 0
    torch.testing.assert_close(empty.objectness, losses.objectness)


def test_a_sample_depends_only_on_the_generator_of_the_image() -> None:
    torch.manual_seed(0)
    rpn = RPN(RPNConfig(sides=SIDES, ratios=(1.0,), anchors_per_image=16), 6, (8,))
    maps, size = torch.randn(1, 6, 12, 16), (96, 128)
    gt_boxes = [torch.tensor([[10.0, 10, 40, 40]])] * 2

    def loss(count: int, seeds: list[int]) -> Tensor:
        torch.manual_seed(count)  # the global generator is not asked
        predictions = rpn([maps.expand(count, -1, -1, -1)], [size] * count)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return torch.stack(rpn.losses(predictions, gt_boxes[:count], generators))

    both = loss(2, [1, 2])
    torch.testing.assert_close(both, (loss(1, [1]) + loss(1, [2])) / 2)
    assert not torch.equal(loss(1, [1]), loss(1, [2]))


@pytest.mark.parametrize("backbone", sorted(set(BACKBONES) - {"caffenet", "vgg16", "resnet50"}))
def test_every_backbones_maps_give_proposals_inside_the_image(backbone: str) -> None:
    torch.manual_seed(0)
    numbers = {"backbone": backbone, "fc_dim": 8, "scale": 64, "max_size": 96}
    model = FastRCNN(FastRCNNConfig.paper(1, rpn=RPNConfig(), **numbers)).eval()
    image = torch.randint(0, 256, (70, 90, 3), dtype=torch.uint8)
    (proposed,) = propose_learned(model, [image])
    fewest = 10 if min(BACKBONE_SPECS[backbone].strides) < 32 else 1
    assert len(proposed.boxes) > fewest
    assert proposed.boxes.min() >= 0
    assert bool((proposed.boxes <= torch.tensor([90.0, 70, 90, 70])).all())
    assert bool((proposed.scores[:-1] >= proposed.scores[1:]).all())
    strides = model.backbone.strides
    assert len(standard_sides(strides)) == len(strides)


@lru_cache
def trained() -> tuple[FastRCNN, list[dict[str, float]]]:
    """Train a detector for 100 steps on twelve scenes. Return it and its losses. This takes some seconds."""
    torch.manual_seed(0)
    model = FastRCNN(config())
    scenes = [scene(seed) for seed in range(12)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    rows = []
    for step in range(100):
        own = [scenes[(2 * step + k) % 12] for k in range(2)]
        out = training_loss(
            model,
            [pixels for pixels, _ in own],
            [target for _, target in own],
            seeds=[2 * step, 2 * step + 1],
        )
        optimizer.zero_grad()
        out.total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        assert out.rpn is not None
        parts = {"total": out.total, "objectness": out.rpn.objectness, "box": out.rpn.box}
        rows.append({name: value.item() for name, value in parts.items()})
    return model.eval(), rows


def test_losses_fall_and_objects_are_detected_without_given_proposals() -> None:
    model, rows = trained()
    for name in ("total", "objectness", "box"):
        first, last = (sum(row[name] for row in part) for part in (rows[:10], rows[-10:]))
        assert last < 0.6 * first, (name, first, last)
    held_out = [scene(seed) for seed in range(100, 106)]
    images = [pixels for pixels, _ in held_out]
    proposed = propose_learned(model, images)
    best = [
        box_iou(target.gt_boxes, own.boxes).amax(dim=1)
        for (_, target), own in zip(held_out, proposed, strict=True)
    ]
    assert (torch.cat(best) > 0.5).float().mean() > 0.9
    found = detect(model, images, score_threshold=0.3)
    hits = [
        box_iou(target.gt_boxes[k : k + 1], own.boxes[own.labels == k + 1]).amax().item() > 0.5
        for (_, target), own in zip(held_out, found, strict=True)
        for k in (0, 1)
        if bool((own.labels == k + 1).any())
    ]
    assert sum(hits) >= 9  # of 12


def test_the_rpns_proposals_given_explicitly_give_the_same_detections() -> None:
    model, _ = trained()
    images = [scene(seed)[0] for seed in (100, 101)] + [scene(102)[0][:60]]
    proposed = propose_learned(model, images)
    given = detect(model, images, [own.boxes for own in proposed])
    for one, own, again in zip(detect_counting(model, images), proposed, given, strict=True):
        assert one.num_proposals == len(own.boxes) <= 60
        for a, b in zip(one.detections, again, strict=True):
            assert torch.equal(a, b)


def test_an_image_has_the_same_proposals_alone_and_among_others() -> None:
    model, _ = trained()
    images = [scene(100)[0], scene(101)[0][:, :120]]  # the second is padded, alone too
    for image, own in zip(images, propose_learned(model, images), strict=True):
        (alone,) = propose_learned(model, [image])
        assert len(alone.boxes) == len(own.boxes)
        torch.testing.assert_close(own.boxes[:20], alone.boxes[:20], atol=1e-2, rtol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_it_proposes_as_on_a_cpu_and_trains_in_mixed_precision() -> None:
    model, _ = trained()
    gpu = copy.deepcopy(model).cuda()
    images = [scene(100)[0], scene(101)[0]]
    for on_cpu, on_gpu in zip(
        propose_learned(model, images), propose_learned(gpu, images), strict=True
    ):
        best = box_iou(on_cpu.boxes[:20], on_gpu.boxes.cpu()).amax(dim=1)
        assert best.mean() > 0.9  # convolutions there round otherwise, so near ties may swap
    gpu.train()
    with torch.autocast("cuda", dtype=torch.bfloat16):
        out = training_loss(
            gpu,
            images,
            [scene(100)[1], scene(101)[1]],
        )
    out.total.backward()
    assert bool(torch.isfinite(out.total))
    assert gpu.rpn is not None
    assert all(p.grad is not None for p in gpu.rpn.parameters())


def test_a_model_without_an_rpn_needs_proposals() -> None:
    model = FastRCNN(config(rpn=None)).eval()
    with pytest.raises(ValueError, match="has no RPN: give proposals"):
        detect(model, [scene(0)[0]])
    with pytest.raises(ValueError, match="has no RPN"):
        propose_learned(model, [scene(0)[0]])


def test_a_checkpoint_holds_the_rpn_and_its_anchors(tmp_path: Path) -> None:
    model, _ = trained()
    proposals = ProposalConfig(name="rpn")
    save_checkpoint(tmp_path, model, classes=("a", "b"), proposals=proposals, training={})
    loaded = load_checkpoint(tmp_path)
    assert loaded.model.config == model.config
    assert loaded.model.config.rpn == config().rpn
    (a,), (b,) = (detect(m, [scene(100)[0]]) for m in (model, loaded.model))
    assert torch.equal(a.boxes, b.boxes)
    small = compress(model, 8, 8)
    torch.testing.assert_close(
        propose_learned(small, [scene(100)[0]])[0].boxes,
        propose_learned(model, [scene(100)[0]])[0].boxes,
    )


def test_a_checkpoint_with_rpn_proposals_but_no_rpn_is_refused(tmp_path: Path) -> None:
    model = FastRCNN(config(rpn=None))
    proposals = ProposalConfig(name="rpn")
    save_checkpoint(tmp_path, model, classes=("a", "b"), proposals=proposals, training={})
    with pytest.raises(CheckpointError, match="but its model has no RPN"):
        load_checkpoint(tmp_path)


def test_an_rpn_with_infinite_outputs_is_refused() -> None:
    model = FastRCNN(config()).eval()
    check_canary(model)
    assert model.rpn is not None
    with torch.no_grad():
        model.rpn.head.cls_logits.bias[0] = torch.finfo(torch.float32).max
        model.rpn.head.cls_logits.weight[0] = torch.finfo(torch.float32).max
    with pytest.raises(ValueError, match="objectness"):
        check_canary(model)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"fg_iou": 0.2}, r"rpn\.bg_iou=0\.3, rpn\.fg_iou=0\.2"),
        ({"nms": 0.0}, r"rpn\.nms=0\.0: expected a number above 0, up to 1"),
        ({"fg_fraction": 0.0}, "fg_fraction"),
        ({"anchors_per_image": 0}, "expected an integer from 1 to"),
        ({"sides": ((8.0,), (16.0, 32.0))}, "the same number of sides for each"),
        ({"ratios": (-1.0,)}, "above 0"),
    ],
)
def test_contradictory_numbers_are_refused(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        replace(RPNConfig(), **changes)


def test_an_rpn_needs_one_scale_and_sides_for_every_map() -> None:
    with pytest.raises(ValueError, match="one scale"):
        config(pyramid=(64, 96))
    with pytest.raises(ValueError, match="one list for each feature map of tiny: 1"):
        config(rpn=RPNConfig(sides=((8.0,), (16.0,))))
