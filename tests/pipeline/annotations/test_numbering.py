"""Tests of bad labels, other classes and new names: what becomes of each, with boxes worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.annotations import LabelledImages, read_labelled_images
from pipeline.annotations.numbering import cut
from pipeline.annotations.rules import BadLabelsError, LabelRules
from pipeline.errors import UserError

SKIP = LabelRules(on_bad_label="skip")
CLIP = LabelRules(on_bad_label="clip")


def picture(path: Path, width: int = 100, height: int = 50) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height)).save(path)


def voc_object(name: str, *corners: object) -> str:
    edges = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    box = "".join(f"<{edge}>{value}</{edge}>" for edge, value in edges)
    return f"<object><name>{name}</name><bndbox>{box}</bndbox></object>"


def voc(folder: Path, stem: str, *objects: str) -> None:
    """Write an image of 100 x 50 pixels and its XML file."""
    picture(folder / "train" / f"{stem}.png")
    size = "<size><width>100</width><height>50</height></size>"
    text = f"<annotation>{size}{''.join(objects)}</annotation>"
    (folder / "train" / f"{stem}.xml").write_text(text)


def read(folder: Path, rules: LabelRules, *classes: str) -> LabelledImages:
    return read_labelled_images(str(folder), "train", classes=classes, rules=rules)


def boxes(labelled: LabelledImages) -> list[list[float]]:
    return [box for image in labelled.images for box in image.gt_boxes.tolist()]


def regions(labelled: LabelledImages) -> list[list[float]]:
    return [box for image in labelled.images for box in image.ignored.tolist()]


def test_all_bad_labels_are_in_one_error(tmp_path: Path) -> None:
    voc(tmp_path, "a", voc_object("cup", 1, 1, 20, 20), voc_object("cup", 90, 1, 140, 20))
    voc(tmp_path, "b", voc_object("cup", 1, "left", 20, 20), voc_object("", 1, 1, 20, 20))
    with pytest.raises(BadLabelsError, match="3 bad labels in 2 files") as caught:
        read(tmp_path, LabelRules())
    places = [(Path(one.annotation_uri).name, one.where) for one in caught.value.bad]
    assert places == [("a.xml", "object 2"), ("b.xml", "object 1"), ("b.xml", "object 2")]
    assert "'left' is not a finite number" in str(caught.value)


def test_a_long_list_of_bad_labels_fits_on_a_screen(tmp_path: Path) -> None:
    voc(tmp_path, "a", *[voc_object("cup", 90, 1, 140, 20)] * 500)
    with pytest.raises(
        BadLabelsError, match=r"500 bad labels in 1 file: .*; and \d+ more"
    ) as caught:
        read(tmp_path, LabelRules())
    assert len(str(caught.value)) < 2500
    assert caught.value.cut_short


def test_skip_makes_a_bad_label_an_ignored_region_where_it_has_a_place(tmp_path: Path) -> None:
    voc(
        tmp_path,
        "a",
        voc_object("cup", 11, 11, 20, 20),
        voc_object("cup", 91, 1, 140, 20),  # over the right edge
        voc_object("", 31, 31, 40, 40),  # no class
        voc_object("cup", 1, "x", 20, 20),  # no place
        voc_object("cup", 201, 1, 240, 20),  # outside
    )
    labelled = read(tmp_path, SKIP)
    assert boxes(labelled) == [[10, 10, 20, 20]]
    assert regions(labelled) == [[90, 0, 100, 20], [30, 30, 40, 40]]
    done = {one.where: one.done for one in labelled.bad}
    assert done["object 2"] == done["object 3"] == "now an ignored region"
    assert done["object 4"] == done["object 5"] == "left out"


def test_clip_cuts_at_the_edge_and_skips_what_has_no_rest(tmp_path: Path) -> None:
    voc(
        tmp_path,
        "a",
        voc_object("cup", 91, 31, 140, 70),
        voc_object("cup", 201, 1, 240, 20),
        voc_object("cup", 41, 1, 30, 20),  # corners swapped: it cannot be cut
    )
    labelled = read(tmp_path, CLIP)
    assert boxes(labelled) == [[90, 30, 100, 50]]
    assert regions(labelled) == [[30, 1, 41, 20]]
    assert sorted(one.done for one in labelled.bad) == [
        "cut at the edge of the image",
        "left out",
        "now an ignored region",
    ]


def test_skip_leaves_out_the_image_of_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    voc(tmp_path, "a", voc_object("cup", 11, 11, 20, 20))
    voc(tmp_path, "b")
    (tmp_path / "train/b.xml").write_text("<annotation><object>")
    labelled = read(tmp_path, SKIP)
    assert [image.image_id for image in labelled.images] == ["a"]
    ((uri, why),) = labelled.left_out.items()
    assert uri.endswith("b.png")
    assert "not readable as XML" in why
    assert labelled.bad[0].done == "image left out"


def test_yolo_lines_over_the_edge_are_cut_also_if_their_centre_is_outside(tmp_path: Path) -> None:
    picture(tmp_path / "images/train/a.png")
    (tmp_path / "data.yaml").write_text("train: images/train\nnames: [cup]\n")
    (tmp_path / "labels/train").mkdir(parents=True)
    lines = ["0 0.9 0.5 0.4 0.4", "0 1.1 0.5 0.4 0.4", "3 0.5 0.5 0.2 0.2", "0 50 25 10 10"]
    (tmp_path / "labels/train/a.txt").write_text("\n".join(lines))
    labelled = read(tmp_path, CLIP)
    expected = [[70, 15, 100, 35], [90, 15, 100, 35]]
    assert np.allclose(boxes(labelled), expected, atol=1e-4)
    assert np.allclose(regions(labelled), [[40, 20, 60, 30]], atol=1e-4)
    assert [one.where for one in labelled.bad] == ["line 1", "line 2", "line 3", "line 4"]
    assert labelled.bad[3].done == "left out"  # pixels: 50 times the width


def test_coco_annotations_are_skipped_one_by_one(tmp_path: Path) -> None:
    picture(tmp_path / "train/a.png")
    picture(tmp_path / "train/b.png")
    sizes = [(100, 50), ("wide", 50)]
    document = {
        "images": [
            {"id": k, "file_name": f"{name}.png", "width": w, "height": h}
            for k, name, (w, h) in zip((1, 2), "ab", sizes, strict=True)
        ],
        "categories": [{"id": 1, "name": "cup"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 5, 5]},
            {"id": 2, "image_id": 1, "category_id": 4, "bbox": [20, 10, 5, 5]},
            {"id": 3, "image_id": 1, "category_id": 1, "bbox": [30, 10, 5]},
            {"id": 4, "image_id": 9, "category_id": 1, "bbox": [40, 10, 5, 5]},
            {"id": 5, "image_id": 1, "category_id": 1, "bbox": [90, 40, 30, 30], "area": 900},
        ],
    }
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/instances_train.json").write_text(json.dumps(document))
    labelled = read(tmp_path, CLIP)
    assert boxes(labelled) == [[10, 10, 15, 15], [90, 40, 100, 50]]
    assert regions(labelled) == [[20, 10, 25, 15]]
    areas = labelled.images[0].areas
    assert areas is not None
    assert areas.tolist() == [25, 100]
    assert len(labelled.images) == 1
    assert len(labelled.left_out) == 1
    places = {one.where for one in labelled.bad}
    assert places == {"annotation 2", "annotation 3", "annotation 4", "annotation 5", "image 2"}


def test_csv_rows_are_skipped_one_by_one(tmp_path: Path) -> None:
    picture(tmp_path / "train/a.png")
    rows = [
        "filename,width,height,class,xmin,ymin,xmax,ymax",
        "a.png,100,50,cup,11,11,20,20",
        "a.png,100,50,,31,31,40,40",
        "a.png,100,50,cup,here,31,40,40",
    ]
    (tmp_path / "train_labels.csv").write_text("\n".join(rows))
    labelled = read(tmp_path, SKIP)
    assert boxes(labelled) == [[10, 10, 20, 20]]
    assert regions(labelled) == [[30, 30, 40, 40]]
    assert {one.where for one in labelled.bad} == {"line 3", "line 4"}


def test_boxes_of_other_classes_become_ignored_regions_and_are_counted(tmp_path: Path) -> None:
    voc(tmp_path, "a", voc_object("cup", 11, 11, 20, 20), voc_object("jar", 31, 31, 140, 40))
    labelled = read(tmp_path, LabelRules(ignore_others=True), "cup")
    assert labelled.classes == ("cup",)
    assert boxes(labelled) == [[10, 10, 20, 20]]
    assert regions(labelled) == [[30, 30, 100, 40]]
    assert "ignored regions: jar (1)" in "\n".join(labelled.problems)


def test_classes_that_no_box_has_are_refused(tmp_path: Path) -> None:
    voc(tmp_path, "a", voc_object("cup", 11, 11, 20, 20))
    with pytest.raises(UserError, match=r"--classes cupp: no box has .*cup \(1\)"):
        read(tmp_path, LabelRules(ignore_others=True), "cupp")


def test_two_classes_get_one_name_and_names_change_places(tmp_path: Path) -> None:
    corners = (11, 11, 20, 20)
    voc(tmp_path, "a", *(voc_object(name, *corners) for name in ("cup", "mug", "jar")))
    merged = read(tmp_path, LabelRules(rename={"mug": "cup", "pot": "cup"}))
    assert merged.classes == ("cup", "jar")
    assert merged.images[0].gt_labels.tolist() == [1, 1, 2]
    assert "--rename pot=cup: this split has no class 'pot'" in "\n".join(merged.problems)
    turned = read(tmp_path, LabelRules(rename={"mug": "jar", "jar": "mug"}), "cup", "mug", "jar")
    assert turned.images[0].gt_labels.tolist() == [1, 3, 2]


def test_a_label_with_bad_labels_only_is_refused_for_them_not_for_its_classes(
    tmp_path: Path,
) -> None:
    voc(tmp_path, "a", voc_object("cup", 1, "x", 20, 20))
    with pytest.raises(BadLabelsError, match="'x' is not a finite number"):
        read(tmp_path, SKIP)


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((-5, 10, 20, 70), (0, 10, 20, 50)),
        ((20, 30, 10, 10), (10, 10, 20, 30)),
        ((100, 0, 120, 50), None),
        ((10, 20, 10, 30), None),
    ],
)
def test_cut_keeps_the_part_inside_the_image(
    box: tuple[float, ...], expected: tuple[float, ...] | None
) -> None:
    assert cut(box, (50, 100)) == expected
