"""Properties of all boxes and image sizes: encode and decode, flips, clips, scales and pyramid levels."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import box_iou

from fastrcnn.boxes import clip, decode, encode, flip
from fastrcnn.pooling import scale_levels
from fastrcnn.transform import batch_images, scale_factor, scaled_size, to_rois

quick = settings(max_examples=40, deadline=None)
corner = st.floats(-100, 600, width=32)
side = st.floats(1, 300, width=32)
box = st.tuples(corner, corner, side, side).map(lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]])
boxes = st.lists(box, min_size=1, max_size=6).map(lambda b: torch.tensor(b, dtype=torch.float64))
pairs = st.lists(st.tuples(box, box), min_size=1, max_size=6).map(
    lambda p: torch.tensor(p, dtype=torch.float64).unbind(1)
)
length = st.integers(1, 3000)


@quick
@given(pairs, st.tuples(*[st.floats(0.5, 20)] * 4))
def test_decode_inverts_encode_under_any_weights(
    pair: tuple[Tensor, Tensor], weights: tuple[float, ...]
) -> None:
    proposals, gt_boxes = pair  # sides differ by 300 at most; the clamp is at 62.5 proposals
    sides = (gt_boxes[:, 2:] - gt_boxes[:, :2]) / (proposals[:, 2:] - proposals[:, :2])
    within = (sides < 62).all(dim=1)
    decoded = decode(proposals, encode(proposals, gt_boxes, weights), weights)[:, 0]
    torch.testing.assert_close(decoded[within], gt_boxes[within])


@quick
@given(pairs, st.floats(0.1, 10), corner, corner)
def test_deltas_do_not_depend_on_shift_and_scale(
    pair: tuple[Tensor, Tensor], scale: float, x: float, y: float
) -> None:
    moved = [scale * b + torch.tensor([x, y, x, y], dtype=torch.float64) for b in pair]
    torch.testing.assert_close(encode(*moved), encode(*pair), rtol=1e-6, atol=1e-6)


@quick
@given(pairs, st.integers(1, 2000))
def test_a_flip_changes_the_sign_of_dx_and_nothing_else(
    pair: tuple[Tensor, Tensor], width: int
) -> None:
    mirrored = encode(*(flip(b, width) for b in pair))
    sign = torch.tensor([-1, 1, 1, 1], dtype=torch.float64)
    torch.testing.assert_close(mirrored, encode(*pair) * sign, rtol=1e-6, atol=1e-6)


@quick
@given(boxes, st.integers(0, 3))
def test_zero_deltas_give_the_proposal_to_every_class(proposals: Tensor, extra: int) -> None:
    decoded = decode(proposals, torch.zeros(len(proposals), 4 * (1 + extra)).double())
    torch.testing.assert_close(decoded, proposals[:, None].expand(-1, 1 + extra, 4))


@quick
@given(boxes, boxes, st.integers(1, 2000))
def test_a_flip_keeps_areas_and_overlaps_and_undoes_itself(
    a: Tensor, b: Tensor, width: int
) -> None:
    torch.testing.assert_close(flip(flip(a, width), width), a)
    torch.testing.assert_close(box_iou(flip(a, width), flip(b, width)), box_iou(a, b))


@quick
@given(boxes, length, length)
def test_a_clipped_box_is_the_part_inside_the_image(a: Tensor, height: int, width: int) -> None:
    clipped = clip(a, (height, width))
    assert bool((clipped >= 0).all())
    assert bool((clipped[:, ::2] <= width).all())
    assert bool((clipped[:, 1::2] <= height).all())
    assert torch.equal(clip(clipped, (height, width)), clipped)
    torch.testing.assert_close(clip(flip(a, width), (height, width)), flip(clipped, width))
    inside = (a[:, :2] >= 0).all(1) & (a[:, 2] <= width) & (a[:, 3] <= height)
    assert torch.equal(clipped[inside], a[inside])


def test_the_references_inclusive_flip_equals_ours_with_an_exclusive_end() -> None:
    # facts, oracle 12: pixels 10 to 20 of 100 -> 79 to 89; their edges are 10 and 21 -> 79 and 90.
    edges = flip(torch.tensor([10.0, 0, 20 + 1, 1]), 100)
    assert (edges[0].item(), edges[2].item() - 1) == (79, 89)


@quick
@given(length, length, st.integers(1, 1200), st.integers(0, 2000))
def test_one_side_reaches_its_limit_and_none_exceeds_it(
    height: int, width: int, scale: int, more: int
) -> None:
    size, max_size = (height, width), scale + more
    scaled = scaled_size(size, scale, max_size)
    assert max(scaled) <= max_size
    assert min(scaled) <= scale
    assert min(scaled) == scale or max(scaled) == max_size
    factor = scale_factor(size, scale, max_size)
    assert all(
        abs(new - max(1, old * factor)) <= 0.5 for new, old in zip(scaled, size, strict=True)
    )


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 90), st.integers(1, 90)), min_size=1, max_size=3),
    st.sampled_from([20, 45, 64]),
)
def test_a_box_maps_to_the_batch_and_back(sizes: list[tuple[int, int]], scale: int) -> None:
    images = [torch.full((*size, 3), 255, dtype=torch.uint8) for size in sizes]
    batch = batch_images(images, scale, 100)
    assert all(side % 32 == 0 for side in batch.images.shape[2:])
    whole = [torch.tensor([[0.0, 0, width, height]]) for height, width in sizes]
    rois = to_rois(whole, batch.factors)
    for index, (size, roi) in enumerate(zip(sizes, rois, strict=True)):
        height, width = scaled_size(size, scale, 100)
        torch.testing.assert_close(roi, torch.tensor([index, 0.0, 0, width, height]))
        pixels = batch.images[index] != 0  # white is not the mean colour, padding is
        assert bool(pixels[:, :height, :width].all())
        assert pixels.sum() == 3 * height * width
        torch.testing.assert_close(roi[1:] / batch.factors[index], whole[index][0])


@quick
@given(boxes, st.sets(st.integers(100, 1200), min_size=1, max_size=5), length, length)
def test_each_box_goes_to_the_level_where_its_area_is_nearest_224_squared(
    a: Tensor, scales: set[int], height: int, width: int
) -> None:
    ordered = sorted(scales)
    levels = scale_levels(a, ordered, (height, width))
    for (x1, y1, x2, y2), level in zip(a.tolist(), levels.tolist(), strict=True):
        distances = []
        for scale in ordered:
            factor = min(scale / min(height, width), 2000 / max(height, width))
            distances.append(abs((x2 - x1) * (y2 - y1) * factor**2 - 224**2))
        assert distances[level] <= min(distances) * (1 + 1e-9) + 224**2 * 1e-3
    larger = a * 2
    assert bool((scale_levels(larger, ordered, (height, width)) <= levels).all())
