"""What any layout may have: litter, letters with accents, names of splits, folders around it."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

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


def litter() -> Iterator[Case]:
    xml = {"train/a.xml": XML, "train/a.png": IMAGE}
    yolo = {"data.yaml": "train: images/train\nnames: [dog]"}
    yolo |= {"images/train/a.png": IMAGE, "labels/train/a.txt": LINE}
    shadow = "\x00\x05\x16\x07 Mac OS X"
    for name, files in (
        ("._ of macOS, XML", xml | {"train/._a.xml": shadow, "train/._a.png": shadow}),
        ("._ of macOS, YOLO", yolo | {"._data.yaml": shadow, "labels/train/._a.txt": shadow}),
        ("__MACOSX", xml | {"__MACOSX/train/._a.xml": shadow, "__MACOSX/train/b.xml": XML}),
        ("notebooks", yolo | {"images/train/.ipynb_checkpoints/a-checkpoint.png": IMAGE}),
        ("a NAS", xml | {"train/@eaDir/a.png/thumb.png": IMAGE, "train/Thumbs.db": shadow}),
        ("Windows", xml | {"train/desktop.ini": "[x]", "$RECYCLE.BIN/a.xml": XML}),
        ("git", xml | {".git/config": "x", ".git/a.xml": XML}),
        ("a cache", yolo | {"labels/train.cache": shadow, "labels/.cache/b.txt": LINE}),
    ):
        yield Case(name=f"litter {name}", files=files, boxes={"train/a.png": DOG})


def letters() -> Iterator[Case]:
    one, two = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    for first, second in ((one, two), (two, one)):
        name = "composed" if first == one else "decomposed"
        for kind, files in (
            ("VOC", {f"Annotations/{first}.xml": XML, f"JPEGImages/{second}.png": IMAGE}),
            ("VOC list", {f"Annotations/{first}.xml": XML, f"JPEGImages/{second}.png": IMAGE}
             | {"ImageSets/Main/train.txt": f"{second}\n"}),
            ("LabelImg", {f"train/{first}.xml": XML, f"train/{second}.png": IMAGE}),
            ("COCO", {"annotations/instances_train.json": coco(f"{first}.png"),
                      f"images/{second}.png": IMAGE}),
            ("YOLO", {"data.yaml": "names: [dog]", f"images/train/{second}.png": IMAGE,
                      f"labels/train/{first}.txt": LINE}),
            ("table", {"labels.csv": HEAD + row(f"{first}.png"), f"images/{second}.png": IMAGE}),
        ):  # fmt: skip
            yield Case(name=f"letters {kind} {name}", files=files, boxes={f"{second}.png": DOG})


def splits() -> Iterator[Case]:
    def folders(*names: str) -> Files:
        return {f"{n}/{n}.{s}": XML if s == "xml" else IMAGE for n in names for s in ("xml", "png")}

    for have, wanted, expected in (
        (("train2017", "val2017"), "train", "train2017"),
        (("training", "testing"), "train", "training"),
        (("my_train", "my_val"), "val", "my_val"),
        (("train", "validation"), "val", "validation"),
        (("train", "train_small"), "train", "train"),
    ):
        yield Case(
            name=f"split {wanted} of {' '.join(have)}",
            files=folders(*have),
            split=wanted,
            boxes={f"{expected}.png": DOG},
        )
    for have, wanted in ((("a_train", "b_train"), "train"), (("val", "test"), "train")):
        yield Case(
            name=f"no split {wanted} among {' '.join(have)}",
            files=folders(*have),
            split=wanted,
            says=("has no such split", f"Its splits are: {', '.join(sorted(have))}"),
        )
    for one, other in (("Dog", "dog"), ("traffic light", "traffic_light"), ("dog ", "dog")):
        case = Case(
            name=f"classes {one!r} and {other!r}",
            files={"train/a.png": IMAGE, "train/b.png": IMAGE}
            | {"train/a.xml": XML.replace("dog", one), "train/b.xml": XML.replace("dog", other)},
            boxes={"a.png": [(one.strip(), *DOG[0][1:])], "b.png": [(other, *DOG[0][1:])]},
            says=() if one.strip() == other else ("almost the same name", one, other),
        )
        yield case


def wrapped() -> Iterator[Case]:
    """Yield one data set of each layout in the folder that an archive makes."""
    sets = {
        "voc": {"annots/a.xml": XML, "images/a.png": IMAGE},
        "labelimg": {"train/a.xml": XML, "train/a.png": IMAGE},
        "coco": {"train/_annotations.coco.json": coco("a.png"), "train/a.png": IMAGE},
        "yolo": {"data.yaml": "train: ../train/images\nnames: [dog]", "train/images/a.png": IMAGE}
        | {"train/labels/a.txt": LINE},
        "darknet": {"obj.data": "train=data/train.txt\nnames=data/obj.names", "obj.names": "dog"}
        | {"train.txt": "data/obj_train_data/a.png", "obj_train_data/a.png": IMAGE}
        | {"obj_train_data/a.txt": LINE},
        "csv": {"train_labels.csv": HEAD + row("a.png"), "images/a.png": IMAGE},
        "labelimg_yolo": {"train/classes.txt": "dog", "train/a.png": IMAGE, "train/a.txt": LINE},
    }
    for layout, files in sets.items():
        for top in ("My Project.v1/", "VOCdevkit/VOC2012/"):
            yield Case(
                name=f"wrapped {layout} in {top}",
                files={f"{top}{path}": text for path, text in files.items()} | {"README.md": "x"},
                boxes={"a.png": DOG},
                layout=layout,
            )
    yield Case(
        name="one of several folders is the data set",
        files={f"set/{path}": text for path, text in sets["yolo"].items()}
        | {"runs/args.txt": "x", "scripts/a.py": "x"},
        boxes={"a.png": DOG},
        layout="yolo",
    )
    yield Case(
        name="two data sets",
        files={
            f"{top}/{path}": text for path, text in sets["yolo"].items() for top in ("one", "two")
        },
        says=("holds 2 data sets", "Give one of them: one, two"),
    )
