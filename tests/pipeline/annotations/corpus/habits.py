"""Habits of tools and people: suffixes, spaces, Windows paths, byte order marks, line ends, empty files."""

from __future__ import annotations

from collections.abc import Iterator

from tests.pipeline.annotations.corpus.kit import DOG, HEAD, IMAGE, LINE, XML, Case, coco, row

YAML = {"data.yaml": "names: [dog]\n"}
BOM = "\ufeff"
CROWD = {"id": 2, "image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "area": 81, "iscrowd": 1}
MASK = {"segmentation": {"counts": "abc", "size": [30, 40]}}
PLAIN = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 7, 20, 15], "area": 300}


def names_of_files() -> Iterator[Case]:
    odd = "Mein Projekt/{}/Bild 1 (Kopie) ä.{}"
    for name, files, image in (
        ("suffixes, VOC", {"Annotations/a.XML": XML, "JPEGImages/a.PNG": IMAGE}, "a.PNG"),
        ("suffixes, YOLO", YAML | {"images/train/A.PNG": IMAGE, "labels/train/A.TXT": LINE}, "A.PNG"),
        ("folders, YOLO", {"Data.YAML": YAML["data.yaml"], "Images/Train/a.png": IMAGE,
                           "Labels/Train/a.txt": LINE}, "Images/Train/a.png"),
        ("folders, COCO", {"Annotations/instances_train.JSON": coco("a.png"),
                           "Images/Train/a.png": IMAGE}, "a.png"),
        ("spaces, VOC", {odd.format("Annotations", "xml"): XML, odd.format("JPEGImages", "png"): IMAGE},
         "Bild 1 (Kopie) ä.png"),
        ("spaces, a list", {"data.yaml": "train: train list.txt\nnames: [dog]\n",
                            "train list.txt": "./images/my ä.png\n", "images/my ä.png": IMAGE,
                            "labels/my ä.txt": LINE}, "my ä.png"),
        ("nested, YOLO", YAML | {"images/train/cam 1/2024/a.png": IMAGE,
                                 "labels/train/cam 1/2024/a.txt": LINE}, "a.png"),
        ("Windows, a yaml", {"data.yaml": "path: C:\\Users\\me\ntrain: images\\train\nnames: [dog]\n",
                             "images/train/a.png": IMAGE, "labels/train/a.txt": LINE}, "a.png"),
        ("Windows, COCO", {"train.json": coco("C:\\data\\imgs\\a.png"), "imgs/a.png": IMAGE}, "a.png"),
        ("Windows, CSV", {"train_labels.csv": HEAD + row("D:\\x\\a.png"), "images/a.png": IMAGE}, "a.png"),
        ("web address, COCO", {"train.json": coco("my%20a.png"), "images/my a.png": IMAGE}, "my a.png"),
        ("a percent sign, COCO", {"train.json": coco("5%20a.png"), "images/5%20a.png": IMAGE},
         "5%20a.png"),
        ("zip of a zip", {f"archive (1)/set/{path}": text for path, text in (
            ("data.yaml", "train: train/images\nnames: [dog]\n"), ("train/images/a.png", IMAGE),
            ("train/labels/a.txt", LINE))}, "a.png"),
    ):  # fmt: skip
        yield Case(name=f"habit: {name}", files=files, boxes={image: DOG})
    for entry in ("a.png", "JPEGImages/a.png", "./JPEGImages/a.png", "JPEGImages\\a.png", "a"):
        yield Case(
            name=f"habit: {entry} in a list of VOC",
            files={"Annotations/a.xml": XML, "JPEGImages/a.png": IMAGE}
            | {"ImageSets/Main/train.txt": f"{entry}\r\n\r\n"},
            boxes={"a.png": DOG},
            layout="voc",
        )
    yield Case(
        name="habit: one name in both splits",
        files=YAML
        | {f"images/{split}/1.png": IMAGE for split in ("train", "val")}
        | {f"labels/{split}/1.txt": LINE for split in ("train", "val")},
        boxes={"train/1.png": DOG},
    )


def texts() -> Iterator[Case]:
    yolo = {"images/train/a.png": IMAGE, "labels/train/a.txt": LINE}
    for name, files in (
        ("BOM, YOLO", {"data.yaml": BOM + YAML["data.yaml"]} | yolo | {"labels/train/a.txt": BOM + LINE}),
        ("BOM, classes", {"classes.txt": f"{BOM}dog\r\n"} | yolo),
        ("BOM, VOC", {"annots/a.xml": BOM + XML, "images/a.png": IMAGE}),
        ("BOM, COCO", {"train.json": BOM + coco("a.png"), "images/a.png": IMAGE}),
        ("BOM and CRLF, CSV", {"train_labels.csv": (BOM + HEAD + row("a.png")).replace("\n", "\r\n"),
                               "images/a.png": IMAGE}),
        ("tabs", YAML | yolo | {"labels/train/a.txt": LINE.replace(" ", "\t")}),
        ("blank lines", YAML | yolo | {"labels/train/a.txt": f"\r\n\r\n{LINE}  \r\n"}),
        ("numbers of NumPy", YAML | yolo | {
            "labels/train/a.txt": "0 5.000000e-01 4.833333333e-01 5.000000e-01 5.000000e-01"}),
        ("sizes of pandas", {"train.json": coco("a.png").replace('"width": 40', '"width": 40.0'),
                             "images/a.png": IMAGE}),
        ("a doctype", {"annots/a.xml": f'<!DOCTYPE annotation SYSTEM "x.dtd">{XML}', "images/a.png": IMAGE}),
    ):  # fmt: skip
        yield Case(name=f"habit: {name}", files=files, boxes={"a.png": DOG})
    crowd = coco("a.png", annotations=[PLAIN, CROWD | MASK])
    yield Case(
        name="habit: a crowd with a mask",
        files={"train.json": crowd, "images/a.png": IMAGE},
        boxes={"a.png": [*DOG, ("dog", 0, 0, 9, 9)]},
    )
    half = {"train.json": coco("a.png").replace('"width": 40', '"width": 40.5')}
    for name, files, said in (
        ("an empty XML", {"annots/a.xml": "", "images/a.png": IMAGE}, "is not readable as XML"),
        ("an empty JSON", {"train.json": "", "images/a.png": IMAGE}, "train.json has no lists"),
        ("an empty CSV", {"train_labels.csv": "", "images/a.png": IMAGE}, "Expected a first line"),
        ("a CSV of one line", {"train_labels.csv": HEAD, "images/a.png": IMAGE}, "no labelled image"),
        ("a class of 0.5", YAML | yolo | {"labels/train/a.txt": LINE.replace("0 ", "0.5 ", 1)}, "'0.5'"),
        ("half a pixel", half | {"images/a.png": IMAGE}, "has width 40.5"),
        ("a mask without a box",
         {"train.json": coco("a.png", annotations=[{**PLAIN, "bbox": None} | MASK]), "images/a.png": IMAGE},
         "Write the bounding box of its segmentation"),
    ):  # fmt: skip
        yield Case(name=f"habit: {name}", files=files, says=(said,))
