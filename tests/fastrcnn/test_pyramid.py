"""Image pyramids (paper, section 2.4): a random level in training, the one nearest to 224^2 at test."""

from __future__ import annotations

import pytest
import torch

from fastrcnn.boxes import clip, decode
from fastrcnn.config import PYRAMID, PYRAMID_MAX_SIZE, FastRCNNConfig
from fastrcnn.detection import detect
from fastrcnn.loss import Target, training_loss
from fastrcnn.model import FastRCNN
from fastrcnn.pooling import scale_levels
from fastrcnn.transform import batch_images, to_rois

SCALES = (48, 64, 96)


def pyramid_model(**changes: object) -> FastRCNN:
    torch.manual_seed(0)
    numbers = {"fc_dim": 16, "pyramid": SCALES, "max_size": 160, "score_threshold": 0.0} | changes
    return FastRCNN(FastRCNNConfig.paper(2, backbone="tiny", **numbers)).eval()


def test_the_papers_scales_send_squares_to_their_levels() -> None:
    sides = (49, 99, 149, 223)  # 50 to 224 where a box has one pixel more than x2 - x1
    boxes = torch.tensor([[0.0, 0, side, side] for side in sides])
    levels = scale_levels(boxes, PYRAMID, (500, 375), max_size=PYRAMID_MAX_SIZE)
    assert levels.tolist() == [4, 3, 1, 0]


def test_each_proposal_is_classified_at_its_level() -> None:
    model = pyramid_model(nms_threshold=1.0, detections_per_class=None)
    image = torch.randint(0, 256, (60, 90, 3), dtype=torch.uint8)
    # 224^2 is above all of these, so the largest scale is nearest; 150^2 * (96 / 60)^2 is above it.
    boxes = torch.tensor([[0.0, 0, 20, 20], [5.0, 5, 80, 55], [0.0, 0, 90, 60]])
    levels = scale_levels(boxes, SCALES, (60, 90), max_size=160)
    (found,) = detect(model, [image], [boxes])
    expected = []
    for level, box in zip(levels.tolist(), boxes, strict=True):
        batch = batch_images([image], SCALES[level], 160)
        with torch.no_grad():
            logits, deltas = model(batch.images, to_rois([box[None]], batch.factors))
        own = clip(decode(box[None], deltas), (60, 90))[0, 1:]
        expected += list(zip(own.tolist(), logits.softmax(dim=1)[0, 1:].tolist(), strict=True))
    expected.sort(key=lambda pair: -pair[1])
    torch.testing.assert_close(found.boxes, torch.tensor([box for box, _ in expected]))
    torch.testing.assert_close(found.scores, torch.tensor([score for _, score in expected]))


def test_several_images_keep_their_levels_and_order() -> None:
    model = pyramid_model()
    images = [torch.randint(0, 256, (60, 90, 3), dtype=torch.uint8) for _ in range(3)]
    boxes = [
        torch.tensor([[0.0, 0, 15, 15], [0.0, 0, 90, 60]]),
        torch.zeros(0, 4),
        torch.tensor([[10.0, 10, 89, 59], [3.0, 3, 30, 20]]),
    ]
    for image, own, found in zip(images, boxes, detect(model, images, boxes), strict=True):
        (alone,) = detect(model, [image], [own])
        torch.testing.assert_close(found.scores, alone.scores, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.boxes, alone.boxes, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("changes", [{}, {"pyramid": (), "scale": 64, "train_scales": SCALES}])
def test_training_draws_the_scale_of_each_image_from_its_seed(
    changes: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = pyramid_model(**changes)
    seen: list[tuple[int, ...]] = []

    def spy(images: object, scales: list[int], *rest: object, **named: object) -> object:
        seen.append(tuple(scales))
        return batch_images(images, scales, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr("fastrcnn.loss.batch_images", spy)
    image = torch.randint(0, 256, (60, 90, 3), dtype=torch.uint8)
    box = torch.tensor([[5.0, 5, 40, 40]])
    target = Target(box, box, torch.tensor([1]))
    for seeds in ([4, 5], [4, 5], list(range(60))):
        loss = training_loss(
            model,
            [image] * len(seeds),
            [target] * len(seeds),
            seeds=seeds,
        )
        assert bool(torch.isfinite(loss.loss.total))
    assert seen[0] == seen[1]
    assert {seen[2].count(scale) > 8 for scale in SCALES} == {True}


@pytest.mark.parametrize(("zoom", "scales"), [(0.5, [48, 48]), (2.0, [96, 96]), (0.1, [32, 32])])
def test_a_zoom_below_one_makes_the_frame_smaller_and_one_above_does_not(
    zoom: float, scales: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[int]] = []

    def spy(images: object, scales: list[int], *rest: object, **named: object) -> object:
        seen.append(scales)
        return batch_images(images, scales, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr("fastrcnn.loss.batch_images", spy)
    image = torch.randint(0, 256, (60, 90, 3), dtype=torch.uint8)
    box = torch.tensor([[5.0, 5, 40, 40]])
    target = Target(box, box, torch.tensor([1]))
    model = pyramid_model(pyramid=(), scale=96, crop_jitter=(zoom, zoom))
    training_loss(model, [image, image], [target, target], seeds=[7, 8])
    assert seen == [scales]


def test_a_pyramid_and_crops_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="with a pyramid, training uses its scales"):
        pyramid_model(crop_jitter=(0.5, 1.5))


def test_a_pyramid_and_training_scales_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="with a pyramid, training uses its scales"):
        pyramid_model(train_scales=(64, 96))


def test_a_scale_above_the_longest_side_is_refused() -> None:
    with pytest.raises(ValueError, match=r"train_scales=.*1200.* max_size=1000"):
        FastRCNNConfig.modern(2, train_scales=(480, 1200), max_size=1000)
    with pytest.raises(ValueError, match=r"pyramid=.*1200.* max_size=1000"):
        FastRCNNConfig.paper(2, pyramid=PYRAMID, max_size=1000)
