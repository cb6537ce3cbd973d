"""Folders of strangers: exports of many tools, other encodings, units and ids, files in the wrong place."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tests.pipeline.annotations.corpus.kit import (
    DOG,
    HEAD,
    IMAGE,
    LINE,
    XML,
    Case,
    Files,
    coco,
    row,
)

YAML: Files = {"data.yaml": "names: [dog]\n"}
CLASSES: Files = {"classes.txt": "dog\n"}
PICTURE: Files = {"images/train/a.png": IMAGE}
LABEL: Files = {"labels/train/a.txt": LINE}
BOTH = PICTURE | LABEL
VOC: Files = {"JPEGImages/a.png": IMAGE}
IDS = "image_id,class_name,x_min,y_min,x_max,y_max\n"


def corners(*box: object) -> str:
    """Make VOC's XML with these corners."""
    values = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    tags = "".join(f"<{name}>{value}</{name}>" for name, value in values)
    return (
        "<annotation><size><width>40</width><height>30</height></size><object><name>dog</name>"
        f"<bndbox>{tags}</bndbox></object></annotation>"
    )


def one(**changes: Any) -> str:
    """Make COCO's JSON with one annotation, changed."""
    plain = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 7, 20, 15], "area": 300}
    return coco("a.png", annotations=[plain | changes])


def encodings() -> Iterator[Case]:
    dog = [("狗", 10, 7, 30, 22)]
    gbk = f'<?xml version="1.0" encoding="GBK"?>{XML.replace("dog", "狗")}'
    for name, files in (
        ("a label file", YAML | PICTURE | {"labels/train/a.txt": LINE.encode("utf-16")}),
        ("classes.txt", BOTH | {"classes.txt": "dog\r\n".encode("utf-16")}),
        ("data.yaml", BOTH | {"data.yaml": YAML["data.yaml"].encode("utf-16")}),
        ("a CSV", PICTURE | {"train_labels.csv": (HEAD + row("a.png")).encode("utf-16")}),
        ("a JSON", PICTURE | {"train.json": coco("a.png").encode("utf-16")}),
        ("an XML", VOC | {"Annotations/a.xml": XML.encode("utf-16")}),
    ):
        yield Case(name=f"stranger: {name} in UTF-16", files=files, boxes={"a.png": DOG})
    yield Case(
        name="stranger: an XML in GBK",
        files=VOC | {"Annotations/a.xml": gbk.encode("gbk")},
        boxes={"a.png": dog},
    )
    for name, files, *says in (
        ("XML", VOC | {"Annotations/a.xml": gbk.encode("utf-16")}, "is not readable as XML"),
        ("no such encoding", VOC | {"Annotations/a.xml": gbk.replace("GBK", "X-42")},
         "is not readable as XML"),
        ("classes.txt", BOTH | {"classes.txt": "Bär\n".encode("latin-1")}, "Save it as UTF-8"),
        ("data.yaml", BOTH | {"data.yaml": "names: [Bär]\n".encode("latin-1")}, "Save it as UTF-8"),
        ("a CSV", PICTURE | {"train.csv": (HEAD + row("a.png", kind="Bär")).encode("latin-1")},
         "Save it as UTF-8"),
        ("a JSON", {"train.json": coco("ä.png").encode("latin-1"), "ä.png": IMAGE}, "not readable as JSON"),
    ):  # fmt: skip
        yield Case(name=f"stranger: another encoding, {name}", files=files, says=tuple(says))


def units() -> Iterator[Case]:
    shares = "look like shares of the image's size"
    for name, files, *says in (
        ("VOC in shares", VOC | {"Annotations/a.xml": corners(0.25, 0.25, 0.75, 0.75)}, shares),
        ("COCO in shares", PICTURE | {"train.json": one(bbox=[0.25, 0.25, 0.5, 0.5])}, shares),
        ("CSV in shares", PICTURE | {"t.csv": HEAD + row("a.png", 0.2, 0.2, 0.7, 0.7)}, shares[:30]),
        ("YOLO in percent", YAML | PICTURE | {"labels/train/a.txt": "0 50 48 50 50"}, "are not shares"),
        ("YOLO in pixels", YAML | PICTURE | {"labels/train/a.txt": "0 20 15 20 15"}, "are not shares"),
        ("YOLO with corners", YAML | PICTURE | {"labels/train/a.txt": "0 .25 .2 .75 .8"}, "outside"),
        ("YOLO with commas", YAML | PICTURE | {"labels/train/a.txt": LINE.replace(" ", ",")},
         "with spaces between"),
        ("YOLO with a negative side", YAML | PICTURE | {"labels/train/a.txt": "0 .5 .5 -.2 .2"},
         "are not shares"),
        ("COCO with corners", PICTURE | {"train.json": one(bbox=[10, 7, 30, 22])},
         "bbox holds the corners [xmin, ymin, xmax, ymax]", "Write bbox as [x, y, width, height]"),
        ("COCO with negative sides", PICTURE | {"train.json": one(bbox=[30, 22, -20, -15])},
         "ends before it begins"),
        ("VOC with a negative corner", VOC | {"Annotations/a.xml": corners(-6, 8, 30, 22)}, "outside"),
        ("VOC with x, y, w, h", VOC | {"Annotations/a.xml": XML.replace("xmin", "x")},
         "xmin: the coordinate is missing"),
        ("VOC with a decimal comma", VOC | {"Annotations/a.xml": corners("10,5", 8, 30, 22)}, "'10,5'"),
    ):  # fmt: skip
        yield Case(name=f"stranger: {name}", files=files, says=tuple(says))
    pixel: list[tuple[str, float, float, float, float]] = [("dog", 10, 7, 11, 8)]
    for name, files, boxes in (
        ("COCO, one pixel", PICTURE | {"train.json": one(bbox=[10, 7, 1, 1], area=1)}, pixel),
        ("COCO, the first pixel", PICTURE | {"train.json": one(bbox=[0, 0, 1, 1], area=1)},
         [("dog", 0, 0, 1, 1)]),
        ("COCO, areas of outlines", PICTURE | {"train.json": one(area=200)}, DOG),
        ("COCO, areas of boxes at 0", PICTURE | {"train.json": one(bbox=[0, 0, 20, 15])},
         [("dog", 0, 0, 20, 15)]),
        ("VOC, the first two pixels", VOC | {"Annotations/a.xml": corners(1, 1, 2, 2)},
         [("dog", 0, 0, 2, 2)]),
    ):  # fmt: skip
        yield Case(name=f"stranger: {name}", files=files, boxes={"a.png": boxes})


def classes() -> Iterator[Case]:
    from_1 = "If the files count classes from 1"
    for name, files, *says in (
        ("ids from 1", YAML | PICTURE | {"labels/train/a.txt": f"1{LINE[1:]}"}, from_1),
        ("names in the lines", YAML | PICTURE | {"labels/train/a.txt": f"dog{LINE[1:]}"}, "class 'dog'"),
        ("names as text", BOTH | {"data.yaml": "names: dog\n"}, "Expected a list such as"),
        ("names numbered from 1", BOTH | {"data.yaml": "names: {1: dog}\n"}, "numbered from 0"),
        ("a yaml with tabs", BOTH | {"data.yaml": "names:\n\t- dog\n"}, "is not readable as YAML"),
        ("a yaml that lies deeper", BOTH | {"config/data.yaml": "names: [dog]\n"},
         "config/data.yaml must lie at the top"),
        ("names only in notes.json", BOTH | {"notes.json": '{"categories": [{"id": 0, "name": "dog"}]}'},
         "there is no list of class names"),
        ("COCO's category as text", PICTURE | {"train.json": one(category_id="1")}, "category_id '1'"),
    ):  # fmt: skip
        yield Case(name=f"stranger: {name}", files=files, says=tuple(says))
    for name, text, kind in (
        ("numbers", "0 dog\n1 cat\n", "0 dog"),
        ("commas", "dog, cat", "dog, cat"),
    ):
        yield Case(
            name=f"stranger: a list of names with {name}",
            files=BOTH | {"classes.txt": text},
            boxes={"a.png": [(kind, 10, 7, 30, 22)]},
            says=("look like a list",),
        )
    ids = [{"id": 0, "name": "dog"}]
    yield Case(
        name="stranger: COCO's ids from 0",
        files=PICTURE
        | {
            "train.json": one(category_id=0).replace(
                '"categories": [{"id": 1', '"categories": [{"id": 0'
            )
        },
        boxes={"a.png": [(str(ids[0]["name"]), 10, 7, 30, 22)]},
    )


def places() -> Iterator[Case]:
    two = {"images/a.png": IMAGE, "images/b.png": IMAGE}
    lists = {"train.txt": "images/a.png\n", "val.txt": "images/b.png\n"}
    voc_lists = {"train.txt": "a\n", "val.txt": "b\n"}
    annots = {"annotations/a.xml": XML, "annotations/b.xml": XML}
    for name, files in (
        ("lists at the top, YOLO", CLASSES | two | lists | {"labels/a.txt": LINE, "labels/b.txt": LINE}),
        ("lists at the top, VOC", annots | two | voc_lists),
        ("lists at the top with suffixes, VOC", annots | two | lists),
        ("flags in a list", VOC | {"Annotations/a.xml": XML, "ImageSets/Main/train.txt": "a  1\n"}),
        ("imgs and labels", CLASSES | {"imgs/a.png": IMAGE, "labels/a.txt": LINE}),
        ("JPEGImages and labels", CLASSES | {"JPEGImages/a.png": IMAGE, "labels/a.txt": LINE}),
        ("ids in a table", PICTURE | {"train.csv": f"{IDS}a,dog,11,8,30,22\n"}),
        ("masks beside images", VOC | {"Annotations/a.xml": XML, "SegmentationClass/a.png": IMAGE,
                                       "ImageSets/Main/train.txt": "a\n"}),
        ("a name with # and ?", YAML | {"images/a#1?50%.png": IMAGE, "labels/a#1?50%.txt": LINE}),
    ):  # fmt: skip
        yield Case(
            name=f"stranger: {name}",
            files=files,
            boxes={"a#1?50%.png" if "#" in name else "a.png": DOG},
        )
    yield Case(
        name="stranger: a folder for each class",
        files={"dog/a.png": IMAGE, "dog/a.xml": XML, "big/b.png": IMAGE, "big/b.xml": XML},
        boxes={"a.png": DOG, "b.png": DOG},
    )
    yield Case(
        name="stranger: a folder for each camera",
        files=YAML
        | {f"images/{camera}/{camera}.png": IMAGE for camera in "ab"}
        | {f"labels/{camera}/{camera}.txt": LINE for camera in "ab"},
        boxes={"a.png": DOG, "b.png": DOG},
    )
    devkit = {
        "Annotations/a.xml": XML,
        "JPEGImages/a.png": IMAGE,
        "ImageSets/Main/train.txt": "a\n",
    }
    years = {f"VOCdevkit/VOC{y}/{p}": text for y in (2007, 2012) for p, text in devkit.items()}
    yield Case(
        name="stranger: two years of VOC",
        files=years,
        says=("holds 2 data sets", "VOC2007", "VOC2012"),
    )
    yield Case(
        name="stranger: a year of VOC beside notes",
        files={f"VOC2007/{path}": text for path, text in devkit.items()}
        | {"notes/x.md": "x", "VOC2007/Annotations/b.xml": XML, "VOC2007/JPEGImages/b.png": IMAGE},
        boxes={"a.png": DOG},
    )
    yield Case(
        name="stranger: a list of other things at the top, VOC",
        files=annots | two | {"train.txt": "accuracy 0.5\n"},
        boxes={"a.png": DOG, "b.png": DOG},
    )
    same = "none of the 1 images of this split has a label file"
    needs = "the label files are not where data.yaml needs them"
    for name, files, *says in (
        ("a.png.txt", YAML | PICTURE | {"labels/train/a.png.txt": LINE}, same, "labels/train/a.txt"),
        ("labels of other stems", YAML | PICTURE | {"labels/train/x.txt": LINE}, same),
        ("images/training", YAML | {"images/training/a.png": IMAGE} | LABEL, same),
        ("labels of val alone", YAML | PICTURE | {"images/val/b.png": IMAGE, "labels/val/b.txt": LINE}, same),
        ("labels in annotations", YAML | PICTURE | {"annotations/train/a.txt": LINE}, needs),
        ("train_images", YAML | {"train_images/a.png": IMAGE, "train_labels/a.txt": LINE}, needs),
        ("labels and images swapped", YAML | {"images/a.txt": LINE, "labels/a.png": IMAGE}, needs),
        ("no labels at all", YAML | PICTURE, "has no label files"),
        ("photos of a camera", YAML | LABEL | {"images/train/a.nef": "x"}, "Convert such files to JPEG"),
        ("an archive", {"data.zip": "PK"}, "Unpack data.zip first"),
        ("an archive of images", {"Annotations/a.xml": XML, "images.tar.gz": "x"}, "Unpack images.tar.gz"),
        ("an archive of labels", PICTURE | {"instances.json.gz": "x"}, "Unpack instances.json.gz"),
        ("a spreadsheet", PICTURE | {"labels.xlsx": "PK"}, "Save labels.xlsx as CSV"),
        ("a film", {"a.mp4": "x"}, "Convert such files"),
    ):  # fmt: skip
        yield Case(name=f"stranger: {name}", files=files, says=tuple(says))


def tools() -> Iterator[Case]:
    vott = {"assets": {"1": {"asset": {"name": "a.png"}, "regions": [{"tags": ["dog"]}]}}}
    face = {"file_name": "a.png", "objects": {"bbox": [[1, 2, 3, 4]], "categories": [0]}}
    crowd = {"ID": "a", "gtboxes": [{"tag": "person", "fbox": [1, 2, 3, 4]}]}
    studio = 'image,id,label\na.png,1,"[{""x"":1,""rectanglelabels"":[""dog""]}]"\n'
    for name, path, text, *says in (
        ("VisDrone", "annotations/a.txt", "10,7,20,15,1,4,0,0\n12,7,2,1,1,4,0,0\n", "VisDrone"),
        ("MOT", "M/gt/gt.txt", "1,1,10,7,20,15,1,1,1\n", "MOT (tracking)"),
        ("Roboflow's text", "train/_annotations.txt", "a.png 10,7,30,22,0\n", "YOLOv4 PyTorch"),
        ("VoTT", "x-export.json", json.dumps(vott), "VoTT"),
        ("Hugging Face", "train/metadata.jsonl", json.dumps(face), "Hugging Face"),
        ("CrowdHuman", "annotation_train.odgt", json.dumps(crowd), "CrowdHuman"),
        ("Label Studio's CSV", "export.csv", studio, "Label Studio's CSV"),
        ("a CSV without a head", "annotations.csv", "a.png,10,7,30,22,dog\n", "Expected a first line"),
        ("Kaggle's bbox column", "train.csv", "image_id,width,bbox\na,40,\"[1, 2, 3, 4]\"\n",
         "begins with 'image_id,width,bbox'"),
        ("a CSV with x, y, w, h", "l.csv", "filename,x,y,w,h,label\na.png,1,2,3,4,dog\n", "xmin"),
    ):  # fmt: skip
        yield Case(
            name=f"stranger: {name}",
            files={path: text, "images/a.png": IMAGE},
            says=(*says, "1 PNG in images/"),
        )
