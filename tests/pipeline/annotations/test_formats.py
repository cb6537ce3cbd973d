from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.annotations import formats, read_labelled_images, splits
from pipeline.annotations.formats import FORMATS
from pipeline.annotations.labelled import Annotations, Format, NamedBox, NamedImage
from pipeline.annotations.tree import Tree
from pipeline.errors import UserError


# A complete format, as CONTRIBUTING describes it: a table with one line a box.
def _read(tree: Tree, split: str, limit: int | None) -> Annotations:
    uri, boxes = tree.uri(f"{split}.boxes"), {}
    for number, line in enumerate(tree.read_text(f"{split}.boxes").splitlines(), start=1):
        image, name, *edges = line.split(",")
        x1, y1, x2, y2 = map(float, edges)
        box = NamedBox(name, (x1, y1, x2, y2), f"line {number}", line)
        boxes.setdefault(image, []).append(box)
    images = sorted(boxes)[:limit]
    named = (NamedImage(tree.uri(i), uri, i, tuple(boxes[i])) for i in images)
    return Annotations(tuple(named), None, ())


TABLE = Format(
    name="table",
    description="a table (*.boxes)",
    looks_like=lambda tree: bool(tree.below("", (".boxes",))),
    splits=lambda tree: tuple(p.removesuffix(".boxes") for p in tree.below("", (".boxes",))),
    read=_read,
    declares_classes=False,
)


@pytest.fixture
def table(tmp_path: Path) -> str:
    (tmp_path / "train.boxes").write_text("b.jpg,dog,0,0,5,6\na.jpg,cat,1,2,3,4\nb.jpg,cat,0,0,1,1")
    (tmp_path / "val.boxes").write_text("c.jpg,cat,0,0,2,2")
    return str(tmp_path)


def test_a_format_is_one_file_and_its_entry_in_the_table(
    table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "FORMATS", (*FORMATS, TABLE))
    assert splits(table) == ("train", "val")
    train = read_labelled_images(table, "train")
    assert (train.layout, train.classes) == ("table", ("cat", "dog"))
    first, second = train.images
    assert first.image_uri == f"{table}/a.jpg"
    assert first.gt_boxes.tolist() == [[1, 2, 3, 4]]
    assert (first.gt_labels.tolist(), second.gt_labels.tolist()) == ([1], [2, 1])
    assert second.annotation_uri == f"{table}/train.boxes"
    # The classes are known only after all boxes were read, so a limit does not change them.
    limited = read_labelled_images(table, "train", limit=1)
    assert (len(limited.images), limited.classes) == (1, ("cat", "dog"))
    with pytest.raises(
        UserError, match=r"table data set has no such split\. Its splits are: train, val"
    ):
        read_labelled_images(table, "test")


def test_a_format_that_declares_its_classes_reads_only_up_to_the_limit(
    table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = []

    def read(tree: Tree, split: str, limit: int | None) -> Annotations:
        limits.append(limit)
        annotations = _read(tree, split, limit)
        return Annotations(annotations.images, ("cat", "dog"), ())

    declaring = Format(
        name="table",
        description="",
        looks_like=lambda _: True,
        splits=TABLE.splits,
        read=read,
        declares_classes=True,
    )
    monkeypatch.setattr(formats, "FORMATS", (declaring,))
    assert len(read_labelled_images(table, "train", limit=1).images) == 1
    assert limits == [1]


def test_the_first_format_of_the_table_that_fits_is_taken(
    table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Format(
        name="other",
        description="anything",
        looks_like=lambda _: True,
        splits=lambda _: ("none",),
        read=_read,
        declares_classes=True,
    )
    monkeypatch.setattr(formats, "FORMATS", (other, TABLE))
    assert splits(table) == ("none",)
    monkeypatch.setattr(formats, "FORMATS", (TABLE, other))
    assert splits(table) == ("train", "val")


def test_the_error_on_an_unknown_format_lists_the_known_formats(
    table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = ("voc", "yolo", "coco", "labelimg")
    some = tuple(format for format in FORMATS if format.name in known)
    monkeypatch.setattr(formats, "FORMATS", some)
    with pytest.raises(UserError) as caught:
        splits(table)
    assert str(caught.value).endswith(
        "holds no labelled images in a known layout. It holds 2 BOXES at the top. Expected VOC"
        " (Annotations/ JPEGImages/), YOLO (data.yaml, images/ labels/), COCO (annotations/*.json) or"
        " LabelImg (XML beside the images). docs/labels.md shows each layout."
    )


def test_the_most_specific_format_is_tried_first() -> None:
    names = [format.name for format in FORMATS]
    assert [n for n in names if n in ("voc", "yolo", "coco", "labelimg")] == [
        "voc",
        "yolo",
        "coco",
        "labelimg",
    ]
