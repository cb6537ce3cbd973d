"""Darknet, and LabelImg in YOLO mode."""

from __future__ import annotations

from collections.abc import Iterator

from tests.pipeline.annotations.corpus.kit import DOG, IMAGE, LINE, Case


def darknet() -> Iterator[Case]:
    for top, names, listed, image in (
        ("data/", "data/obj.names", "data/obj/a.png", "data/obj/a.png"),
        ("", "data/obj.names", "data/obj_train_data/a.png", "obj_train_data/a.png"),
        ("", "obj.names", "obj_train_data/a.png", "obj_train_data/a.png"),
        ("", "/home/me/darknet/data/obj.names", "/home/me/obj/a.png", "obj/a.png"),
        ("cfg/", "cfg/obj.names", "../img/a.png", "img/a.png"),
    ):
        yield Case(
            name=f"darknet {top or 'top'} {names}",
            files={
                f"{top}obj.data": f"classes = 1\ntrain = {top}train.txt\nnames = {names}\nbackup=b\n",
                f"{top}obj.names": "dog\n",
                f"{top}train.txt": f"{listed}\n",
                image: IMAGE,
                image.replace(".png", ".txt"): LINE,
            },
            boxes={"a.png": DOG},
            layout="darknet",
        )
    yield Case(
        name="darknet without its names",
        files={"obj.data": "train = train.txt\nnames = x.names", "train.txt": "a.png"}
        | {"a.png": IMAGE, "a.txt": LINE},
        says=("obj.data", "names = x.names: there is no such file"),
    )


def labelimg_yolo() -> Iterator[Case]:
    for names in ("classes.txt", "obj.names", "_darknet.labels", "dogs.names"):
        for folder in ("", "train/"):
            yield Case(
                name=f"labelimg yolo {folder}{names}",
                files={
                    f"{folder}{names}": "dog\n",
                    f"{folder}a.png": IMAGE,
                    f"{folder}a.txt": LINE,
                },
                boxes={"a.png": DOG},
                layout="labelimg_yolo",
            )
    yield Case(
        name="labelimg yolo, classes in another order in val",
        files={"train/classes.txt": "dog\ncat", "val/classes.txt": "cat\ndog"}
        | {
            "train/a.png": IMAGE,
            "train/a.txt": LINE,
            "val/b.png": IMAGE,
            "val/b.txt": f"1{LINE[1:]}",
        },
        split="val",
        boxes={"b.png": DOG},
        layout="labelimg_yolo",
    )
    yield Case(
        name="labelimg yolo with lists",
        files={"classes.txt": "dog", "train.txt": "x/a.png\n", "val.txt": "x/b.png\n"}
        | {"x/a.png": IMAGE, "x/a.txt": LINE, "x/b.png": IMAGE, "x/b.txt": LINE},
        boxes={"a.png": DOG},
        layout="labelimg_yolo",
    )
