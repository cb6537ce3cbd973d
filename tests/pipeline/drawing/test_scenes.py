from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.drawing.scenes import (
    MAX_SIDE,
    MIN_SIDE,
    MIN_VISIBLE,
    SHAPES,
    draw_background,
    draw_scene,
    mask_boxes,
    rasterize,
    scene_rng,
)

SCENES = [draw_scene(scene_rng(11, index)) for index in range(60)]


def test_a_scene_is_the_same_for_the_same_seed_and_index() -> None:
    first, again, other = (draw_scene(scene_rng(5, index)) for index in (3, 3, 4))
    assert np.array_equal(first.pixels, again.pixels)
    assert np.array_equal(first.boxes, again.boxes)
    assert first.labels == again.labels
    assert first.pixels.shape != other.pixels.shape or not np.array_equal(
        first.pixels, other.pixels
    )


def test_boxes_are_tight_around_the_visible_pixels_of_each_shape() -> None:
    for scene in SCENES:
        for (x_min, y_min, x_max, y_max), mask in zip(
            scene.boxes.astype(int).tolist(), scene.masks, strict=True
        ):
            inside = mask[y_min:y_max, x_min:x_max]
            assert inside.sum() == mask.sum()
            assert inside[0].any()
            assert inside[-1].any()
            assert inside[:, 0].any()
            assert inside[:, -1].any()


def test_a_mask_marks_the_pixels_where_the_shape_was_painted() -> None:
    for index in range(12):
        scene = draw_scene(scene_rng(2, index), (200, 220), max_shapes=1, empty_share=0.0)
        # The background is drawn first, so the same seed draws the same background without the shape.
        ground = draw_background(scene_rng(2, index), (200, 220))
        change = np.abs(scene.pixels - ground).sum(axis=2)
        inside, outside = change[scene.masks[0]], change[~scene.masks[0]]
        # Noise of sigma <= 7 a channel outside; a colour 70 away in RGB from the mean inside.
        assert np.median(outside) < 20
        assert np.median(inside) > 2.5 * np.median(outside)


def test_masks_do_not_share_pixels() -> None:
    assert all((scene.masks.sum(axis=0) <= 1).all() for scene in SCENES)


def test_boxes_lie_inside_the_image_and_have_area() -> None:
    for scene in SCENES:
        height, width = scene.pixels.shape[:2]
        assert scene.boxes.shape == (len(scene.labels), 4)
        assert (scene.boxes >= 0).all()
        assert (scene.boxes[:, 2:] <= (width, height)).all()
        assert (scene.boxes[:, 2:] - scene.boxes[:, :2] >= 5).all()


def test_scenes_differ_in_size_scale_class_and_number() -> None:
    boxes = np.concatenate([scene.boxes for scene in SCENES])
    diameters = np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))
    labels = [label for scene in SCENES for label in scene.labels]
    assert len({scene.pixels.shape for scene in SCENES}) > 50
    assert diameters.min() < 1.5 * MIN_SIDE
    assert diameters.max() > 0.75 * MAX_SIDE
    assert all(labels.count(name) > len(labels) / 10 for name in SHAPES)
    assert {len(scene.labels) for scene in SCENES} >= {0, 1, 2, 3, 4, 5}
    assert any((scene.masks.any(axis=0)).mean() > 0.25 for scene in SCENES)


def test_the_colour_does_not_depend_on_the_class() -> None:
    """The mean colours of the five classes, each of about 40 shapes, differ only by chance."""
    colours: dict[str, list[np.ndarray]] = {name: [] for name in SHAPES}
    for index in range(150):
        scene = draw_scene(scene_rng(17, index))
        for label, mask in zip(scene.labels, scene.masks, strict=True):
            colours[label].append(scene.pixels[mask].mean(axis=0))
    means = np.array([np.mean(c, axis=0) for c in colours.values()])
    spread = np.mean([np.std(c, axis=0) for c in colours.values()])
    fewest = min(len(c) for c in colours.values())
    assert np.abs(means - means.mean(axis=0)).max() < 4 * spread / math.sqrt(fewest)


@pytest.mark.parametrize("name", SHAPES)
def test_an_outline_lies_in_the_unit_circle_and_covers_its_area(name: str) -> None:
    outline = SHAPES[name]()
    assert all(np.linalg.norm(points, axis=1).max() <= 1.0 + 1e-9 for points in outline)
    cover = rasterize([points * 50 + 60 for points in outline], (120, 120))
    area = {
        "circle": math.pi,
        "ring": math.pi * (1 - 0.52**2),
        "square": 2.0,
        "triangle": 3 * math.sqrt(3) / 4,
        "cross": 4 * 0.95 * 0.3 * 2 - 4 * 0.3**2,  # two bars of 1.9 x 0.6, minus their overlap
    }[name]
    assert cover.sum() == pytest.approx(area * 50**2, rel=0.02)


def test_a_rasterized_square_has_the_edges_it_was_given() -> None:
    corners = np.array([[3.0, 4.0], [9.0, 4.0], [9.0, 6.5], [3.0, 6.5]])
    cover = rasterize([corners], (10, 12))
    assert (cover[4:6, 3:9] == 1).all()
    assert cover[6, 5] == pytest.approx(
        0.5, abs=0.26
    )  # OpenCV fills up to a quarter of a pixel more
    assert cover[:3].sum() == 0
    assert cover[8:].sum() == 0
    assert mask_boxes(cover[None] > 0.8).tolist() == [[3, 4, 9, 6]]


def test_parts_outside_the_image_are_cut_off() -> None:
    corners = np.array([[-5.0, -5.0], [4.0, -5.0], [4.0, 4.0], [-5.0, 4.0]])
    cover = rasterize([corners], (8, 8))
    assert mask_boxes(cover[None] >= 0.5).tolist() == [[0, 0, 4, 4]]


def test_no_shape_is_hidden() -> None:
    """Most of a cut square or circle is still visible, so it fills its box as much as its outline does."""
    filling = {"circle": math.pi / 4, "square": 0.5, "triangle": 0.35, "ring": 0.5, "cross": 0.3}
    for scene in SCENES:
        for label, box, mask in zip(scene.labels, scene.boxes, scene.masks, strict=True):
            area = float(np.prod(box[2:] - box[:2]))
            assert mask.sum() >= 0.6 * MIN_VISIBLE * filling[label] * area


def test_a_scene_without_shapes_has_empty_arrays() -> None:
    scene = draw_scene(scene_rng(0, 0), (64, 48), empty_share=1.0)
    assert scene.pixels.shape == (64, 48, 3)
    assert scene.boxes.shape == (0, 4)
    assert scene.boxes.dtype == np.float32
    assert scene.masks.shape == (0, 64, 48)
    assert scene.labels == ()


def test_the_classes_argument_limits_the_shapes() -> None:
    scenes = [draw_scene(scene_rng(1, i), classes=("ring", "cross")) for i in range(10)]
    assert {label for scene in scenes for label in scene.labels} == {"ring", "cross"}
