"""YOLO: folders, names, poses and lists."""

from __future__ import annotations

from collections.abc import Iterator

from tests.pipeline.annotations.corpus.kit import DOG, IMAGE, LINE, Case


def yolo() -> Iterator[Case]:
    label = {"labels/train/a.txt": LINE, "images/train/a.png": IMAGE}
    for number, entry in enumerate(
        (
            "train: images/train",
            "train: ./images/train/",
            "train: ../images/train",
            "path: /content/datasets/x\ntrain: images/train",
            "path: images\ntrain: train",
            "train: /content/drive/x/images/train",
            "train: C:\\data\\x\\images\\train",
            "train: [images/train]",
            "train: [images/train/a.png]",
            "train:\n  - images/train/a.png",
            "train: images/train/a.png",
        )
    ):
        yield Case(
            name=f"yolo yaml entry {number}",
            files=label | {"data.yaml": f"{entry}\nnames: [dog]\n"},
            boxes={"a.png": DOG},
            layout="yolo",
        )
    for yaml in ("data.yml", "dataset.yaml", "dogs.yaml", "custom.yml"):
        others = {"args.yaml": "task: detect\n", "hyp.yaml": "lr0: 0.01\n", "broken.yaml": "a: [\n"}
        yield Case(
            name=f"yolo {yaml} beside files of other tools",
            files=label | others | {yaml: "train: images/train\nnames: [dog]\n"},
            boxes={"a.png": DOG},
            layout="yolo",
        )
    yield Case(
        name="yolo images beside labels",
        files={"data.yaml": "train: pics\nnames: [dog]", "pics/a.png": IMAGE, "pics/a.txt": LINE},
        boxes={"a.png": DOG},
        layout="yolo",
    )
    yield Case(
        name="yolo JPEGImages",
        files={"classes.txt": "dog", "JPEGImages/a.png": IMAGE, "labels/a.txt": LINE}
        | {"data.yaml": "train: JPEGImages\nnames: [dog]"},
        boxes={"a.png": DOG},
        layout="yolo",
    )
    yield Case(
        name="yolo a missing folder is reported",
        files=label | {"data.yaml": "train: images/train\nval: images/none\nnames: [dog]"},
        boxes={"a.png": DOG},
        says=("data.yaml: val: images/none names no image", "images for train"),
    )
    yield Case(
        name="yolo two yaml files that differ",
        files=label | {"a.yaml": "names: [dog]", "b.yaml": "names: [cat]"},
        says=("a.yaml and b.yaml name different classes",),
    )
    yield Case(
        name="yolo two images of one stem",
        files=label
        | {"data.yaml": "train: images/train\nnames: [dog]", "images/train/a.bmp": IMAGE},
        boxes={"a.png": DOG, "a.bmp": DOG},
        says=("share one label file: images/train/a.bmp and images/train/a.png",),
    )
    yield Case(
        name="yolo a line twice",
        files=label | {"data.yaml": "names: [dog]", "labels/train/a.txt": LINE * 2},
        boxes={"a.png": DOG * 2},
        says=("the same box stands twice", "a.txt"),
    )


def yolo_names() -> Iterator[Case]:
    for written, expected in (
        ("[yes]", "yes"),
        ("[no]", "no"),
        ("[on]", "on"),
        ("[Off]", "Off"),
        ("[y]", "y"),
        ("[null]", "null"),
        ("[true]", "true"),
        ("[007]", "007"),
        ("[0x1F]", "0x1F"),
        ("[1e3]", "1e3"),
        ("[1.50]", "1.50"),
        ("[12:30]", "12:30"),
        ("[2024-01-02]", "2024-01-02"),
        ("[1_000]", "1_000"),
        ("['yes']", "yes"),
        ("{0: no}", "no"),
        ("\n  0: 010", "010"),
        ("\n- No", "No"),
    ):
        yield Case(
            name=f"yolo name {written!r}",
            files={"data.yaml": f"names: {written}\n", "images/a.png": IMAGE, "labels/a.txt": LINE},
            boxes={"a.png": [(expected, *DOG[0][1:])]},
            layout="yolo",
        )
    for text, number, kind in (
        ("dog\n\ncat\n", 2, "cat"),
        ("\ndog\n", 1, "dog"),
        ("dog\r\ncat\r\n\r\n", 1, "cat"),
        ("dog\n  \ncat", 2, "cat"),
        ("\ufeffdog\n", 0, "dog"),
    ):
        yield Case(
            name=f"yolo classes.txt {text!r}",
            files={
                "classes.txt": text,
                "images/a.png": IMAGE,
                "labels/a.txt": f"{number}{LINE[1:]}",
            },
            boxes={"a.png": [(kind, *DOG[0][1:])]},
            layout="yolo",
        )
    yield Case(
        name="yolo a box of a blank line",
        files={"classes.txt": "dog\n\ncat", "images/a.png": IMAGE, "labels/a.txt": f"1{LINE[1:]}"},
        says=("class 1 is a blank line in the list of classes",),
    )


def poses() -> Iterator[Case]:
    for shape, points in (
        ("[1, 2]", ".1 .9"),
        ("[2, 2]", ".1 .9 .2 .8"),
        ("[1, 3]", ".1 .9 2"),
        ("[2, 3]", ".1 .9 1 0 0 0"),
        ("[4, 3]", "0 0 0 .1 .1 2 .9 .9 2 5 5 0"),
        ("[17, 3]", "0 0 0 " * 17),
    ):
        yield Case(
            name=f"yolo pose {shape}",
            files={
                "data.yaml": f"kpt_shape: {shape}\nnames: [dog]",
                "images/a.png": IMAGE,
                "labels/a.txt": f"{LINE.strip()} {points}\n",
            },
            boxes={"a.png": DOG},
            layout="yolo",
        )
    for shape, points, says in (
        ("[4, 3]", ".1 .1 1 .2 .2 1", "has 10 numbers after the class"),
        ("[2, 2]", ".1 .1", "has 6 numbers after the class"),
        ("[2]", ".1 .1", "kpt_shape is not a number of keypoints"),
        ("[2, 4]", ".1 .1", "kpt_shape is not a number of keypoints"),
        ("many", ".1 .1", "kpt_shape is not a number of keypoints"),
    ):
        yield Case(
            name=f"yolo pose refused: {shape}, {points}",
            files={
                "data.yaml": f"kpt_shape: {shape}\nnames: [dog]",
                "images/a.png": IMAGE,
                "labels/a.txt": f"{LINE.strip()} {points}\n",
            },
            says=(says,),
        )


def lists() -> Iterator[Case]:
    files = {"data.yaml": "train: train.txt\nnames: [dog]", "images/train/a.png": IMAGE}
    files |= {"labels/train/a.txt": LINE, "images/val/b.png": IMAGE, "labels/val/b.txt": LINE}
    for line in (
        "images/train/a.png",
        "./images/train/a.png",
        "../set/images/train/a.png",
        "data/images/train/a.png",
        "/content/set/images/train/a.png",
        "D:\\set\\images\\train\\a.png",
        "train/a.png",
        "a.png",
        "images/train/A.PNG",
    ):
        yield Case(
            name=f"yolo list with {line}",
            files=files | {"train.txt": f"{line}\r\n\r\n"},
            boxes={"images/train/a.png": DOG},
            layout="yolo",
        )
    for line, says in (
        ("images/train/none.png", "do not exist: images/train/none.png"),
        ("images/test/a.png", "do not exist: images/test/a.png"),
        ("/x/val/a.png", "do not exist: /x/val/a.png"),
    ):
        yield Case(
            name=f"yolo list refused: {line}",
            files=files | {"train.txt": f"images/train/a.png\n{line}\n"},
            says=("train.txt", says),
        )
    same = files | {"images/train/b.png": IMAGE, "labels/train/b.txt": LINE}
    yield Case(
        name="yolo list of the longest common end",
        files=same | {"train.txt": "/x/images/train/b.png\n"},
        boxes={"images/train/b.png": DOG},
        layout="yolo",
    )
