"""Labels apart from their images, split files, links between folders, and folders that hold a data set."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline import storage
from pipeline.annotations import list_files, read_labelled_images, splits
from pipeline.errors import UserError
from tests.pipeline.annotations.corpus import HEAD, LINE, XML, coco, picture, row


def write(root: Path, files: dict[str, str]) -> None:
    for number, (name, text) in enumerate(files.items()):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if text else picture(number))


@pytest.mark.parametrize(
    ("labels", "uri", "layout"),
    [
        ({"instances_val.json": coco("x/a.png")}, "instances_val.json", "coco"),
        ({"train.csv": HEAD + row("a.png")}, "train.csv", "csv"),
        ({"a.xml": XML}, "", "voc"),
        ({"x/a.txt": LINE, "classes.txt": "dog"}, "", "yolo"),
        ({"Annotations/x/a.xml": XML, "ImageSets/Main/train.txt": "x/a"}, "", "voc"),
        ({"labels/x/a.txt": LINE, "data.yaml": "train: images\nnames: [dog]"}, "", "yolo"),
    ],
)
def test_labels_are_read_apart_from_their_images(
    tmp_path: Path, bucket: str, labels: dict[str, str], uri: str, layout: str
) -> None:
    write(tmp_path / "labels", labels)
    write(tmp_path / "pictures", {"x/a.png": "", "x/notes.txt": "no image"})
    storage.upload_folder(tmp_path / "pictures", f"{bucket}/in")
    for images_at in (str(tmp_path / "pictures"), f"{bucket}/in"):
        name = str(tmp_path / "labels" / uri)
        (split,) = splits(name, images_at)
        labelled = read_labelled_images(name, split, images_at=images_at)
        assert labelled.layout == layout
        (image,) = labelled.images
        assert image.image_uri == f"{images_at}/x/a.png"
        assert image.gt_boxes.round(3).tolist() == [[10, 7, 30, 22]]
        assert image.image_uri in list_files(name, images_at)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {"labels/a.xml": XML, "pictures/a.txt": "no image"})
    with pytest.raises(UserError, match=r"--images-at .*pictures: holds no image"):
        read_labelled_images(
            str(tmp_path / "labels"), "train", images_at=str(tmp_path / "pictures")
        )


def test_a_file_as_data_set_is_refused_with_advice(tmp_path: Path) -> None:
    write(tmp_path, {"train.json": coco("a.png")})
    with pytest.raises(
        UserError, match=r"is a file, and a folder was expected.*--annotations FILE"
    ):
        splits(str(tmp_path / "train.json"))


def test_a_split_file_names_images_of_any_split(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write(data, {f"{s}/{n}.{e}": XML if e == "xml" else "" for s, n in (("train", "a"), ("test", "b"))
                 for e in ("xml", "png")})  # fmt: skip
    write(tmp_path, {"some.txt": f"# a comment\ntrain/a.png\n{data}/test/b.png\ntrain/a.png\n"})
    labelled = read_labelled_images(str(data), str(tmp_path / "some.txt"))
    assert [image.image_id for image in labelled.images] == ["b", "a"]
    assert len(read_labelled_images(str(data), str(tmp_path / "some.txt"), limit=1).images) == 1
    write(tmp_path, {"some.txt": "train/none.png\n"})
    with pytest.raises(UserError, match=r"lists 1 images without labels .*train/none\.png"):
        read_labelled_images(str(data), str(tmp_path / "some.txt"))
    write(tmp_path, {"some.txt": "# nothing\n"})
    with pytest.raises(UserError, match="lists no image"):
        read_labelled_images(str(data), str(tmp_path / "some.txt"))


def test_a_folder_is_read_through_each_link_to_it(tmp_path: Path) -> None:
    write(tmp_path, {"pool/a.png": "", "data/labels/train/a.txt": LINE})
    write(tmp_path, {"data/labels/val/a.txt": LINE, "data/data.yaml": "names: [dog]"})
    (tmp_path / "data/images").mkdir()
    for split in ("train", "val"):
        os.symlink("../../pool", tmp_path / "data/images" / split)
    os.symlink("..", tmp_path / "data/images/up")
    for split in ("train", "val"):
        (image,) = read_labelled_images(str(tmp_path / "data"), split).images
        assert image.image_uri.endswith(f"data/images/{split}/a.png")


def test_links_to_one_image_are_not_two_images(tmp_path: Path) -> None:
    write(tmp_path, {"pictures/a.png": "", "result.json": coco("a.png")})
    os.symlink("pictures", tmp_path / "photos")
    (image,) = read_labelled_images(str(tmp_path), "train").images
    assert image.image_uri == f"{tmp_path}/photos/a.png"
    (tmp_path / "photos").unlink()
    write(tmp_path, {"photos/b.png": "", "photos/a.png": ""})
    with pytest.raises(UserError, match=r"may be photos/a\.png or pictures/a\.png"):
        read_labelled_images(str(tmp_path), "train")


def test_a_folder_that_was_a_split_before_it_was_seen_as_a_wrapper_still_is_one(
    tmp_path: Path,
) -> None:
    write(tmp_path, {"pets/train/a.xml": XML, "pets/train/a.png": "", "pets/b.xml": XML})
    write(tmp_path, {"pets/b.png": ""})
    assert splits(str(tmp_path)) == ("all", "train")
    assert len(read_labelled_images(str(tmp_path), "pets").images) == 2
