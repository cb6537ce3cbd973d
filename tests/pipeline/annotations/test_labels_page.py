"""Each picture in docs/labels.md is a data set that is read as the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline.annotations import read_labelled_images
from tests.pipeline.annotations.corpus import XML, coco, picture

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "labels.md").read_text()
LAYOUTS = {
    "VOC": "voc",
    "Sibling folders": "voc",
    "LabelImg": "labelimg",
    "COCO": "coco",
    "YOLO": "yolo",
    "Darknet": "darknet",
    "LabelImg in YOLO mode": "labelimg_yolo",
    "CSV": "csv",
    "Open Images": "open_images",
}


def pictures() -> dict[str, str]:
    """Give the picture of each section of the page."""
    return dict(re.findall(r"^## ([^\n]+)\n\n```\n(.+?)```", PAGE, re.MULTILINE | re.DOTALL))


def test_the_table_has_each_layout_and_each_has_a_picture_of_five_lines_at_most() -> None:
    table = re.findall(r"^\| \[(.+?)\]", PAGE, re.MULTILINE)
    assert table == list(LAYOUTS) == list(pictures())
    assert all(1 < picture.count("\n") <= 5 for picture in pictures().values())


@pytest.mark.parametrize("section", LAYOUTS)
def test_a_picture_of_the_page_is_read(section: str, tmp_path: Path) -> None:
    for number, line in enumerate(pictures()[section].splitlines()):
        name, _, content = line.partition("  ")
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".jpg"):
            path.write_bytes(picture(number))
        elif name.endswith(".xml"):
            path.write_text(XML)
        elif name.endswith(".json"):
            path.write_text(coco("a.jpg"))
        else:
            path.write_text("\n".join(content.strip().split("; ")))
    labelled = read_labelled_images(str(tmp_path), "train")
    assert labelled.layout == LAYOUTS[section]
    (image,) = labelled.images
    assert Path(image.image_uri).name == "a.jpg"
    assert labelled.classes == ("dog",)
    assert len(image.gt_boxes) == 1
