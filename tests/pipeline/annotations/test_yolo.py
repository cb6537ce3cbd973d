"""Reading YOLO's text files from small hand-written data sets. The images are 40 wide and 20 high."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from pipeline.annotations import read_labelled_images, splits
from pipeline.errors import UserError

YAML = "path: ../datasets/pets\ntrain: images/train\nval: images/val\nnames: [dog, cat]\n"


def write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def write_image(path: Path, orientation: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    size = (20, 40) if orientation in (5, 6, 7, 8) else (40, 20)
    Image.new("RGB", size).save(path, "JPEG", exif=exif)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Two images with a box, and one image without a label file."""
    write(tmp_path / "data.yaml", YAML)
    for name in ("train/a.jpg", "train/b.JPG", "train/none.jpg", "val/c.jpg"):
        write_image(tmp_path / "images" / name)
    write(tmp_path / "labels/train/a.txt", "1 0.5 0.5 0.25 0.5\n\n0 0.25 0.5 0.5 1.0\n")
    write(tmp_path / "labels/train/b.txt", "")
    write(tmp_path / "labels/val/c.txt", "0 0.5 0.5 1 1\r\n")
    return tmp_path


def test_shares_become_pixels(pets: Path) -> None:
    labelled = read_labelled_images(str(pets), "train")
    assert labelled.layout == "yolo"
    assert labelled.classes == ("dog", "cat"), "by number, not by name"
    a, b, none = labelled.images
    assert a.gt_boxes.tolist() == [[15, 5, 25, 15], [0, 0, 20, 20]]
    assert a.gt_labels.tolist() == [2, 1]
    assert a.annotation_uri == f"{pets}/labels/train/a.txt"
    assert b.gt_boxes.shape == none.gt_boxes.shape == (0, 4)
    (problem,) = labelled.problems
    assert "images/train/none.jpg" in problem


def test_boxes_are_in_the_frame_of_the_upright_image(pets: Path) -> None:
    write_image(pets / "images/train/a.jpg", orientation=6)  # stored 20 x 40, shown 40 x 20
    a = read_labelled_images(str(pets), "train").images[0]
    assert a.gt_boxes.tolist() == [[15, 5, 25, 15], [0, 0, 20, 20]]


def test_a_bucket_gives_the_same_labels(pets: Path, bucket: str) -> None:
    from pipeline import storage

    storage.upload_folder(pets, bucket)
    a, _, _ = read_labelled_images(bucket, "train").images
    assert a.gt_boxes.tolist() == [[15, 5, 25, 15], [0, 0, 20, 20]]


@pytest.mark.parametrize(
    "entries",
    [
        "train: images/train\nval: images/val",
        "train: ./images/train/\nval: images\\val",
        "path: .\ntrain: images/train\nval: images/val",
        "train: ../images/train\nval: ../images/val",
        "path: images\ntrain: train\nval: val",
        "train: [images/train]\nval: val.txt",
        "train: /home/somebody/pets/train\nval: /home/somebody/pets/val",
        "{}: x",
    ],
)
def test_every_way_to_name_a_split_in_the_yaml_is_understood(pets: Path, entries: str) -> None:
    write(pets / "val.txt", "./images/val/c.jpg\n")
    entries = entries.replace("{}", "comment")
    write(pets / "data.yaml", f"{entries}\nnames: {{0: dog, 1: cat}}\n")
    assert splits(str(pets)) == ("train", "val")
    assert [i.image_id for i in read_labelled_images(str(pets), "val").images] == ["c"]
    assert len(read_labelled_images(str(pets), "train").images) == 3


def test_the_split_folder_may_be_outside_the_images_folder(tmp_path: Path) -> None:
    write(tmp_path / "data.yaml", "train: ../train/images\nval: ../valid/images\nnames: [dog]\n")
    for split in ("train", "valid"):
        write_image(tmp_path / split / "images/a.jpg")
        write(tmp_path / split / "labels/a.txt", "0 0.5 0.5 1 1")
    assert splits(str(tmp_path)) == ("train", "val", "valid")
    for split in splits(str(tmp_path)):
        assert read_labelled_images(str(tmp_path), split).images[0].gt_boxes.tolist() == [
            [0, 0, 40, 20]
        ]


def test_class_names_may_stand_in_classes_txt(tmp_path: Path) -> None:
    write(tmp_path / "classes.txt", "dog\ncat\n")
    write_image(tmp_path / "images/a.jpg")
    write(tmp_path / "labels/a.txt", "1 0.5 0.5 1 1")
    assert splits(str(tmp_path)) == ("all",)
    labelled = read_labelled_images(str(tmp_path), "all")
    assert labelled.classes == ("dog", "cat")
    assert labelled.images[0].gt_labels.tolist() == [2]


def test_a_polygon_gives_its_bounding_box(pets: Path) -> None:
    write(pets / "labels/val/c.txt", "1 0.1 0.5 0.5 0.2 0.3 0.9\n")
    box = read_labelled_images(str(pets), "val").images[0].gt_boxes[0]
    assert box.tolist() == pytest.approx([4, 4, 20, 18])


def test_a_box_without_area_is_left_out_and_reported(pets: Path) -> None:
    write(pets / "labels/val/c.txt", "0 0.5 0.5 1 1\n0 0.5 0.5 0 0.5\n")
    labelled = read_labelled_images(str(pets), "val")
    assert len(labelled.images[0].gt_boxes) == 1
    assert "labels/val/c.txt (line 2): dog [0.5, 0.5, 0, 0.5]" in labelled.problems[0]


def test_labels_without_an_image_are_reported(pets: Path) -> None:
    write(pets / "labels/train/gone.txt", "0 0.5 0.5 1 1")
    assert "gone.txt" in " ".join(read_labelled_images(str(pets), "train").problems)


def test_an_image_whose_size_cannot_be_read_is_left_out_and_reported(pets: Path) -> None:
    (pets / "images/train/a.jpg").write_bytes(b"no image")
    labelled = read_labelled_images(str(pets), "train")
    assert [image.image_id for image in labelled.images] == ["b", "none"]
    assert "images/train/a.jpg" in labelled.problems[1]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("2 0.5 0.5 1 1", "class '2' is not a number from 0 to 1"),
        ("-1 0.5 0.5 1 1", "class '-1'"),
        ("dog 0.5 0.5 1 1", "class 'dog'"),
        ("0.0 0.5 0.5 1 1", "class '0.0'"),
        ("0 0.5 0.5 1", "4 numbers"),
        ("0 0.5 0.5 1 1 0.9", "6 numbers"),
        ("0 20 10 40 20", "not shares"),
        ("0 0.5 0.5 1 nan", "finite"),
        ("0 0.5 0.5 1 x", "finite"),
    ],
)
def test_a_line_that_cannot_be_read_is_refused_and_named(pets: Path, line: str, why: str) -> None:
    write(pets / "labels/val/c.txt", f"0 0.5 0.5 1 1\n{line}\n")
    with pytest.raises(UserError, match=rf"labels/val/c\.txt \(line 2\): .*{why}"):
        read_labelled_images(str(pets), "val")


@pytest.mark.parametrize(
    "content",
    [
        "names: [",
        "just text",
        "names: 3",
        "names: []",
        "names: {1: dog, 2: cat}",
        "!!python/object:os.x {}",
    ],
)
def test_a_yaml_file_that_cannot_be_read_is_refused_and_named(pets: Path, content: str) -> None:
    write(pets / "data.yaml", content)
    with pytest.raises(UserError, match=r"data\.yaml"):
        splits(str(pets))


def test_the_classes_argument_must_include_every_class_in_use(pets: Path) -> None:
    labelled = read_labelled_images(str(pets), "train", classes=("cat", "dog"))
    assert labelled.images[0].gt_labels.tolist() == [1, 2]
    with pytest.raises(UserError, match=r"'dog' in .*a\.txt \(line 3\)"):
        read_labelled_images(str(pets), "train", classes=("cat",))
