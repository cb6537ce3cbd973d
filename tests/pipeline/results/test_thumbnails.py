"""The regions of the crops of a report."""

from __future__ import annotations

from pipeline.results.thumbnails import crop_regions


def test_a_crop_has_a_margin_and_ends_at_the_edge_of_the_image() -> None:
    assert crop_regions([(100, 200, 140, 220)], (640, 480)) == [(88, 188, 152, 232)]  # 12 pixels
    assert crop_regions([(0, 0, 200, 100)], (220, 480)) == [(0, 0, 220, 150)]  # a quarter of 200


def test_a_box_within_an_earlier_crop_has_no_crop_of_its_own() -> None:
    boxes = [(0, 0, 200, 100), (190, 90, 210, 110), (300, 300, 310, 310)]
    assert crop_regions(boxes, (640, 480)) == [(0, 0, 250, 150), (288, 288, 322, 322)]
    assert crop_regions([], (640, 480)) == []
