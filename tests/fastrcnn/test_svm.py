"""Post-hoc SVMs: their margins on the model's features, and what is refused."""

from __future__ import annotations

import pytest
import torch

from fastrcnn.config import FastRCNNConfig
from fastrcnn.detection import detect
from fastrcnn.loss import Target
from fastrcnn.model import FastRCNN
from fastrcnn.svm import SCORE_THRESHOLD, with_svms

COLORS = torch.tensor([[220, 30, 30], [30, 30, 220]], dtype=torch.uint8)
BACKGROUND = torch.tensor([[x, y, x + 24.0, y + 24] for x in (0, 60) for y in (40, 70)])


def scene(seed: int) -> tuple[torch.Tensor, Target]:
    """Draw a red and a blue square on grey, with proposals on and beside them."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(90, 130, (96, 96, 3), dtype=torch.uint8, generator=generator)
    boxes = torch.tensor([[8.0, 6, 32, 30], [56.0, 6, 80, 30]])
    for color, box in zip(COLORS, boxes.int().tolist(), strict=True):
        image[box[1] : box[3], box[0] : box[2]] = color
    return image, Target(torch.cat([boxes + 1, BACKGROUND]), boxes, torch.tensor([1, 2]))


@pytest.fixture
def model() -> FastRCNN:
    torch.manual_seed(0)
    return FastRCNN(FastRCNNConfig.paper(2, backbone="tiny", fc_dim=64, scale=96)).eval()


@pytest.mark.filterwarnings("ignore:Liblinear failed to converge")
def test_margins_tell_the_classes_from_each_other_and_from_background(model: FastRCNN) -> None:
    images, targets = zip(*(scene(seed) for seed in range(6)), strict=True)
    svm = with_svms(model, images, targets)
    assert (svm.config.classifier, svm.config.score_threshold) == ("svm", SCORE_THRESHOLD)
    image, target = scene(99)
    (found,) = detect(svm, [image], [torch.cat([target.gt_boxes, BACKGROUND])], score_threshold=0)
    assert found.labels.tolist() in ([1, 2], [2, 1])
    assert bool((found.scores > 0.5).all()), "positives lie at margin 1"
    everything = detect(svm, [image], [BACKGROUND])[0]
    assert bool((everything.scores < 0).all())


def test_only_the_classifier_changes(model: FastRCNN) -> None:
    before = {k: v.clone() for k, v in model.state_dict().items()}
    svm = with_svms(model, *zip(*(scene(seed) for seed in range(2)), strict=True))
    for name, value in svm.state_dict().items():
        assert torch.equal(value, before[name]) != name.startswith("head.cls_score."), name
        assert torch.equal(model.state_dict()[name], before[name]), "a copy"
    assert svm.state_dict()["head.cls_score.weight"][0].abs().sum() == 0


def test_a_class_without_a_box_is_named(model: FastRCNN) -> None:
    image, target = scene(0)
    one = Target(target.proposals, target.gt_boxes[:1], target.gt_labels[:1])
    with pytest.raises(ValueError, match=r"labels \[2\]"):
        with_svms(model, [image], [one])
