from __future__ import annotations

import numpy as np

from pipeline.drawing.pictures import PALETTE, contact_sheet, draw_boxes

GREY = np.full((60, 80, 3), 128, dtype=np.uint8)
CLASSES = ("circle", "ring")


def test_lines_run_along_the_inside_of_the_box_with_a_dark_edge_around() -> None:
    picture = draw_boxes(GREY, [[20, 30, 60, 50]], [1], [0.9], CLASSES)
    assert (picture[45, 20] == PALETTE[0]).all()
    assert (picture[45, 59] == PALETTE[0]).all()
    assert (picture[49, 40] == PALETTE[0]).all()
    assert (picture[45, 19] == 0).all()
    assert (picture[45, 60] == 0).all()
    assert (picture[50, 40] == 0).all()
    assert (picture[40, 40] == 128).all()  # the inside stays visible


def test_the_image_itself_is_not_changed() -> None:
    before = GREY.copy()
    draw_boxes(GREY, [[20, 30, 60, 50]], [1], [0.9], CLASSES)
    assert np.array_equal(GREY, before)


def test_classes_have_different_colours() -> None:
    picture = draw_boxes(GREY, [[2, 30, 20, 50], [40, 30, 60, 50]], [1, 2], None, CLASSES)
    assert (picture[45, 2] == PALETTE[0]).all()
    assert (picture[45, 40] == PALETTE[1]).all()


def test_the_best_score_is_drawn_last() -> None:
    box = [20, 30, 60, 50]
    picture = draw_boxes(GREY, [box, box], [1, 2], [0.9, 0.2], CLASSES)
    assert (picture[45, 20] == PALETTE[0]).all()


def test_a_label_at_the_corner_stays_in_the_picture() -> None:
    edge = draw_boxes(GREY, [[70, 0, 80, 20]], [2], [0.55], CLASSES)
    coloured = (edge == PALETTE[1]).all(axis=2)
    assert coloured[1:12, 25:60].sum() > 100  # the label was moved to the left of the box
    assert edge.shape == GREY.shape


def test_zoom_enlarges_image_and_boxes_alike() -> None:
    picture = draw_boxes(GREY, [[20, 30, 60, 50]], [1], [0.9], CLASSES, zoom=3)
    assert picture.shape == (180, 240, 3)
    assert (picture[140, 60] == PALETTE[0]).all()
    assert (picture[140, 59] == 0).all()
    assert (picture[140, 180] == 0).all()


def test_without_boxes_the_image_is_returned_unchanged() -> None:
    assert np.array_equal(draw_boxes(GREY, np.zeros((0, 4)), [], [], CLASSES), GREY)


def test_boxes_without_area_or_outside_the_image_cause_no_error() -> None:
    boxes = [[5.2, 5.1, 5.3, 5.2], [-10, -10, 200, 200], [100, 100, 120, 130]]
    assert draw_boxes(GREY, boxes, [1, 2, 1], [0.1, 0.2, 0.3], CLASSES).shape == GREY.shape


def test_a_contact_sheet_holds_every_picture_in_its_cell() -> None:
    pictures = [np.full((30 + i, 50, 3), 40 * i, dtype=np.uint8) for i in range(5)]
    sheet = contact_sheet(pictures, [f"picture {i}" for i in range(5)], columns=2, cell=100)
    step_x, step_y = 106, 126
    assert sheet.shape == (3 * step_y + 6, 2 * step_x + 6, 3)
    for i in range(5):
        left, top = 6 + i % 2 * step_x, 6 + i // 2 * step_y
        assert (sheet[top + 10, left + 50] == 40 * i).all()
    assert (sheet[-60, -60] == 255).all()  # the sixth cell is empty
