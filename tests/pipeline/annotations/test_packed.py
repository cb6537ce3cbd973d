"""Labelled data sets are read out of archives as if they were unpacked."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline import storage
from pipeline.annotations import list_files, read_labelled_images, splits
from pipeline.errors import UserError
from tests.pipeline.storage.archives.hostile import link, tar_of


def png() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (40, 30)).save(out, "PNG")
    return out.getvalue()


VOC_XML = (
    b"<annotation><size><width>40</width><height>30</height></size><object><name>cat</name>"
    b"<bndbox><xmin>2</xmin><ymin>3</ymin><xmax>11</xmax><ymax>12</ymax></bndbox></object></annotation>"
)
COCO = json.dumps(
    {
        "images": [{"id": 1, "file_name": "a.png", "width": 40, "height": 30}],
        "categories": [{"id": 7, "name": "cat"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 7, "bbox": [1, 2, 10, 10]}],
    }
).encode()
YAML = b"train: images/train\nnames: [cat]\n"
SETS = {
    "voc": {
        "Annotations/a.xml": VOC_XML,
        "JPEGImages/a.png": png(),
        "ImageSets/Main/train.txt": b"a\n",
    },
    "coco": {"annotations/instances_train.json": COCO, "train/a.png": png()},
    "yolo": {
        "data.yaml": YAML,
        "images/train/a.png": png(),
        "labels/train/a.txt": b"0 .15 .2333333 .25 .3333333\n",
    },
}


@pytest.mark.parametrize("layout", SETS)
@pytest.mark.parametrize("kind", ["tar", "zip", "tar with a folder"])
def test_a_packed_folder_is_read_as_the_folder(layout: str, kind: str, tmp_path: Path) -> None:
    files = SETS[layout]
    if kind == "zip":
        path = tmp_path / "x.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
    else:
        path = tmp_path / "x.tar"
        start = "./data/" if kind != "tar" else ""
        path.write_bytes(tar_of(*((start + name, data) for name, data in files.items())))
    labelled = read_labelled_images(str(path), "train")
    assert (labelled.layout, labelled.classes) == (layout, ("cat",))
    (image,) = labelled.images
    assert image.image_uri.startswith(f"{path.suffix[1:]}://")
    assert image.gt_boxes.round(3).tolist() == [[1, 2, 11, 12]]
    assert storage.read_bytes(image.image_uri) == png()
    assert list_files(str(path))[image.image_uri].etag == storage.stat(str(path)).etag


def test_webdataset_pairs_are_read_from_several_tars(tmp_path: Path) -> None:
    label = {"annotations": [{"bbox": [1, 2, 10, 10], "category": "cat"}]}
    lists = {"objects": {"bbox": [[0, 0, 4, 4]], "category": ["dog"]}}
    for number, document in enumerate((label, lists)):
        members = ((f"{number}.png", png()), (f"{number}.json", json.dumps(document).encode()))
        (tmp_path / f"train-{number:06d}.tar").write_bytes(tar_of(*members))
    (tmp_path / "val-000000.tar").write_bytes(
        tar_of(("9.png", png()), ("9.json", json.dumps({"objects": []}).encode()))
    )
    assert splits(str(tmp_path)) == ("train", "val")
    labelled = read_labelled_images(str(tmp_path), "train")
    assert (labelled.layout, labelled.classes) == ("webdataset", ("cat", "dog"))
    assert [i.gt_boxes.tolist() for i in labelled.images] == [[[1, 2, 11, 12]], [[0, 0, 4, 4]]]


def test_pairs_with_xml_are_read(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(tar_of(("a.png", png()), ("a.xml", VOC_XML)))
    labelled = read_labelled_images(f"{tmp_path}/x.tar", "all")
    assert (labelled.layout, labelled.classes) == ("labelimg", ("cat",))


def test_a_wrong_box_in_a_json_file_is_named(tmp_path: Path) -> None:
    document = {"objects": {"bbox": [[1, 2, 3]], "category": ["cat"]}}
    members = (("a.png", png()), ("a.json", json.dumps(document).encode()))
    (tmp_path / "x.tar").write_bytes(tar_of(*members))
    with pytest.raises(UserError, match=r"tar://a.json.*object 1.*bbox is \[1, 2, 3\]"):
        read_labelled_images(f"{tmp_path}/x.tar", "all")


def test_detection_parquet_of_hugging_face_is_read(tmp_path: Path) -> None:
    label = {"feature": {"names": ["cat", "dog"], "_type": "ClassLabel"}, "_type": "Sequence"}
    features = {"objects": {"bbox": {}, "category": label}}
    table = pa.table(
        {
            "image": [{"bytes": png(), "path": None}] * 2,
            "objects": [
                {"bbox": [[1.0, 2.0, 10.0, 10.0]], "category": [1]},
                {"bbox": [], "category": []},
            ],
        }
    ).replace_schema_metadata({b"huggingface": json.dumps({"info": {"features": features}})})
    (tmp_path / "data").mkdir()
    pq.write_table(table, tmp_path / "data/train-00000-of-00001.parquet")
    labelled = read_labelled_images(str(tmp_path), "train")
    assert (labelled.layout, labelled.classes) == ("hugging-face", ("cat", "dog"))
    first, second = labelled.images
    assert first.gt_boxes.tolist() == [[1, 2, 11, 12]]
    assert first.gt_labels.tolist() == [2]
    assert len(second.gt_boxes) == 0
    assert first.image_uri.startswith("parquet://0::")
    assert storage.read_bytes(first.image_uri) == png()


def test_a_zip_of_windows_is_read_as_the_folder(tmp_path: Path) -> None:
    """Compress-Archive wrote backslashes."""
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name, data in SETS["coco"].items():
            info = zipfile.ZipInfo("x")
            info.filename = name.replace("/", "\\")
            archive.writestr(info, data)
    labelled = read_labelled_images(f"{tmp_path}/x.zip", "train")
    (image,) = labelled.images
    assert image.gt_boxes.tolist() == [[1, 2, 11, 12]]
    assert image.image_uri == f"zip://train\\a.png::{tmp_path}/x.zip"
    assert storage.read_bytes(image.image_uri) == png()


def test_the_zips_of_coco_are_one_data_set(tmp_path: Path) -> None:
    for name, members in {
        "train2017.zip": {"train2017/a.png": png(), "__MACOSX/train2017/._a.png": b"x"},
        "annotations_trainval2017.zip": {"annotations/instances_train2017.json": COCO},
    }.items():
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for path, data in members.items():
                archive.writestr(path, data)
    labelled = read_labelled_images(str(tmp_path), "train")
    assert (labelled.layout, len(labelled.images)) == ("coco", 1)
    assert labelled.images[0].gt_boxes.tolist() == [[1, 2, 11, 12]]


def test_names_with_composed_and_decomposed_letters_are_one(tmp_path: Path) -> None:
    """macOS writes u and two dots; the label file has the letter."""
    names = {"JPEGImages/u\u0308.png": png(), "Annotations/\u00fc.xml": VOC_XML}
    members = [*names.items(), ("ImageSets/Main/train.txt", "\u00fc\n".encode())]
    (tmp_path / "x.tar").write_bytes(tar_of(*members, format=tarfile.PAX_FORMAT))
    (image,) = read_labelled_images(f"{tmp_path}/x.tar", "train").images
    assert image.gt_boxes.tolist() == [[1, 2, 11, 12]]
    assert storage.read_bytes(image.image_uri) == png()


def test_links_in_a_tar_are_images(tmp_path: Path) -> None:
    label = json.dumps({"objects": {"bbox": [[1, 2, 10, 10]], "category": [3]}}).encode()
    members = (
        ("a.png", png()), ("a.json", label), link("b.png", "a.png"), ("b.json", label),
    )  # fmt: skip
    (tmp_path / "x.tar").write_bytes(tar_of(*members))
    labelled = read_labelled_images(f"{tmp_path}/x.tar", "all")
    assert labelled.classes == ("3",)
    assert [storage.read_bytes(image.image_uri) for image in labelled.images] == [png()] * 2


def parquet_with(bbox: list[float]) -> pa.Table:
    objects = [{"bbox": [bbox], "category": ["cat"]}]
    return pa.table({"image": [{"bytes": png(), "path": "a.png"}], "objects": objects})


def test_parquet_files_in_folders_of_splits_are_read(tmp_path: Path) -> None:
    """As Hugging Face converts a data set: train/0000.parquet, validation/0000.parquet."""
    for number, split in enumerate(("train", "validation")):
        (tmp_path / split).mkdir()
        table = parquet_with([number, 2.0, 10.0, 10.0])
        pq.write_table(table, tmp_path / split / "0000.parquet")
    assert splits(str(tmp_path)) == ("train", "validation")
    for number, split in enumerate(("train", "validation")):
        (image,) = read_labelled_images(str(tmp_path), split).images
        assert image.gt_boxes.tolist() == [[number, 2, number + 10, 12]]
        assert image.image_uri == f"parquet://0::{tmp_path}/{split}/0000.parquet"


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    data = tar_of(*SETS["voc"].items())
    (tmp_path / "x.tar").write_bytes(data[:3000])
    with pytest.raises(UserError, match="may be cut"):
        read_labelled_images(f"{tmp_path}/x.tar", "train")
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz"):
        pass
    with pytest.raises(UserError, match=r"jobs/pack.py"):
        read_labelled_images(f"{tmp_path}/x.tar.gz", "train")
