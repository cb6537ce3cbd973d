"""Reading VOC's XML from small hand-written data sets, in VOC's folders and in LabelImg's."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from pipeline.annotations import read_labelled_images, splits
from pipeline.annotations.voc_xml import parse_voc_xml
from pipeline.errors import UserError


def xml_object(name: str, *corners: object, more: str = "") -> str:
    tags = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    box = "".join(f"<{tag}>{value}</{tag}>" for tag, value in tags)
    return f"<object><name>{name}</name>{more}<bndbox>{box}</bndbox></object>"


def write_xml(path: Path, *objects: str, filename: str = "else/where.png") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    head = f"<filename>{filename}</filename><path>C:\\x\\{filename}</path><size><width>0</width></size>"
    path.write_text(f"<annotation>{head}{''.join(objects)}</annotation>")


def write_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30)).save(path, "JPEG")


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """Three images: one with two dogs, one of them difficult; one with a cat; one without objects."""
    for name in ("a", "b c", "empty"):
        write_image(tmp_path / f"JPEGImages/{name}.{'JPG' if name == 'a' else 'jpeg'}")
    difficult = "<difficult>1</difficult><part><name>head</name><bndbox/></part>"
    write_xml(
        tmp_path / "Annotations/a.xml",
        xml_object("dog", 1, 1, 40, 30),
        xml_object("dog", "5.5", " 6 ", 7, 8, more=difficult),
    )
    write_xml(tmp_path / "Annotations/b c.xml", xml_object("cat", 2, 3, 4, 5))
    write_xml(tmp_path / "Annotations/empty.xml")
    sets = tmp_path / "ImageSets/Main"
    sets.mkdir(parents=True)
    (sets / "train.txt").write_text("b c\r\na\nempty\n\n")
    (sets / "val.txt").write_text("a\n")
    (sets / "dog_train.txt").write_text("a  1\nb c -1\n")
    (sets / "none.txt").write_text("\n")
    return tmp_path


def test_1_based_corners_become_continuous_edges(voc: Path) -> None:
    labelled = read_labelled_images(str(voc), "train")
    a, b, empty = labelled.images
    assert labelled.classes == ("cat", "dog")
    assert a.gt_boxes.tolist() == [[0, 0, 40, 30], [4.5, 5, 7, 8]]
    assert a.gt_labels.tolist() == [2, 2]
    assert a.difficult.tolist() == [False, True]
    assert b.gt_boxes.tolist() == [[1, 2, 4, 5]]
    assert b.gt_labels.tolist() == [1]
    assert empty.gt_boxes.shape == (0, 4)
    assert empty.gt_labels.shape == (0,)
    assert labelled.problems == ()


def test_an_annotation_belongs_to_the_image_with_its_stem_whatever_the_xml_says(voc: Path) -> None:
    a, b, _ = read_labelled_images(str(voc), "train").images
    assert (a.image_uri, a.image_id) == (f"{voc}/JPEGImages/a.JPG", "a")
    assert (b.image_uri, b.image_id) == (f"{voc}/JPEGImages/b c.jpeg", "b c")


def test_lists_of_single_classes_are_not_splits(voc: Path) -> None:
    assert splits(str(voc)) == ("none", "train", "val")
    assert [i.image_id for i in read_labelled_images(str(voc), "val").images] == ["a"]


def test_an_empty_split_is_refused(voc: Path) -> None:
    with pytest.raises(UserError, match=r"none\.txt: lists no image"):
        read_labelled_images(str(voc), "none")


@pytest.mark.parametrize("gone", ["Annotations/b c.xml", "JPEGImages/b c.jpeg"])
def test_a_listed_image_needs_its_annotation_and_its_pixels(voc: Path, gone: str) -> None:
    (voc / gone).unlink()
    with pytest.raises(UserError, match=f"not in {gone.split('/')[0]}: b c"):
        read_labelled_images(str(voc), "train")


def test_an_image_listed_twice_is_read_once(voc: Path) -> None:
    (voc / "ImageSets/Main/val.txt").write_text("a\na\nempty\n")
    labelled = read_labelled_images(str(voc), "val")
    assert [image.image_id for image in labelled.images] == ["a", "empty"]
    assert "val.txt: ignored 1 repeated names" in labelled.problems[0]


def test_two_images_with_one_stem_are_refused(voc: Path) -> None:
    write_image(voc / "JPEGImages/a.png")
    with pytest.raises(UserError, match=r"a\.JPG.* a\.png|a\.png"):
        read_labelled_images(str(voc), "train")


def test_a_data_set_without_lists_has_the_split_all(voc: Path) -> None:
    for path in (voc / "ImageSets/Main").iterdir():
        path.unlink()
    write_image(voc / "JPEGImages/unlabelled.jpg")
    write_xml(voc / "Annotations/alone.xml")
    assert splits(str(voc)) == ("all",)
    labelled = read_labelled_images(str(voc), "all")
    assert [image.image_id for image in labelled.images] == ["a", "b c", "empty"]
    alone, unlabelled = labelled.problems
    assert "alone.xml" in alone
    assert "unlabelled.jpg" in unlabelled


@pytest.mark.parametrize(
    "corners", [(5, 5, 5, 9), (5, 5, 9, 5), (5, 5, 5, 5), ("7.5", 5, "7.5", 9)]
)
def test_a_box_without_area_is_left_out_and_reported(
    voc: Path, corners: tuple[object, ...]
) -> None:
    boxes = xml_object("dog", 1, 1, 9, 9), xml_object("dog", *corners)
    write_xml(voc / "Annotations/a.xml", *boxes)
    labelled = read_labelled_images(str(voc), "val")
    assert labelled.images[0].gt_boxes.tolist() == [[0, 0, 9, 9]]
    assert labelled.images[0].difficult.shape == (1,)
    (problem,) = labelled.problems
    assert "a.xml (object 2)" in problem
    assert f"[{', '.join(map(str, corners))}]" in problem


@pytest.mark.parametrize("value", ["nan", "inf", "", "ten", "-Infinity"])
def test_a_coordinate_that_is_not_a_number_is_refused(value: str) -> None:
    data = f"<annotation>{xml_object('dog', 1, 2, value, 4)}</annotation>".encode()
    with pytest.raises(UserError, match=r"s3://b/a\.xml \(object 1\) xmax"):
        parse_voc_xml(data, "s3://b/a.xml")


@pytest.mark.parametrize(
    ("xml", "why"),
    [
        ("<annotation><object><name>a</name></object></annotation>", "no <bndbox>"),
        ("<annotation><object><bndbox/></object></annotation>", "no <name>"),
        ("<annotation><object>", "not readable as XML.*line 1"),
        ("", "not readable as XML"),
        ("<?xml version='1.0' encoding='nonsense'?><annotation/>", "not readable as XML"),
        ('<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>', "entities"),
        ('<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;">]><a>&y;</a>', "entities"),
    ],
)
def test_xml_that_cannot_be_read_is_refused_and_named(xml: str, why: str) -> None:
    with pytest.raises(UserError, match=rf"s3://b/a\.xml.*{why}"):
        parse_voc_xml(xml.encode(), "s3://b/a.xml")


def test_labelimg_pairs_files_by_stem_and_reports_files_without_a_partner(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_image(tmp_path / split / "a.JPG")
        write_xml(tmp_path / split / "a.xml", xml_object("dog", 1, 1, 9, 9))
    write_image(tmp_path / "train/sub/a.jpg")
    write_xml(tmp_path / "train/sub/a.xml", xml_object("cat", 1, 1, 9, 9))
    write_image(tmp_path / "train/unlabelled.jpg")
    write_xml(tmp_path / "train/alone.xml", xml_object("cow", 1, 1, 9, 9))
    (tmp_path / "train_labels.csv").write_text("filename,width\n")
    assert splits(str(tmp_path)) == ("test", "train")
    labelled = read_labelled_images(str(tmp_path), "train")
    assert labelled.layout == "labelimg"
    assert labelled.classes == ("cat", "dog")
    assert [i.image_id for i in labelled.images] == ["train/a", "train/sub/a"], (
        "stems alone are not unique"
    )
    alone, unlabelled = labelled.problems
    assert "train/alone.xml" in alone
    assert "train/unlabelled.jpg" in unlabelled
    assert [i.image_id for i in read_labelled_images(str(tmp_path), "test").images] == ["a"]


def test_labelimg_without_folders_has_the_split_all(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg")
    write_xml(tmp_path / "a.xml", xml_object("dog", 1, 1, 9, 9))
    assert splits(str(tmp_path)) == ("all",)
    assert len(read_labelled_images(str(tmp_path), "all").images) == 1


def test_a_split_without_any_box_has_no_classes(tmp_path: Path) -> None:
    write_image(tmp_path / "train/a.jpg")
    write_xml(tmp_path / "train/a.xml")
    with pytest.raises(UserError, match="no class"):
        read_labelled_images(str(tmp_path), "train")
    assert len(read_labelled_images(str(tmp_path), "train", classes=("dog",)).images) == 1
