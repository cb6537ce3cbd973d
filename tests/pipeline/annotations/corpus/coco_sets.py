"""COCO."""

from __future__ import annotations

from collections.abc import Iterator

from tests.pipeline.annotations.corpus.kit import DOG, IMAGE, Case, coco


def coco_cases() -> Iterator[Case]:
    for json_path, image, split in (
        ("annotations/instances_train.json", "train/a.png", "train"),
        ("annotations/instances_train2017.json", "train2017/a.png", "train2017"),
        ("annotations/instances_train2017.json", "images/train2017/a.png", "train"),
        ("annotations/custom_train.json", "train2017/a.png", "custom_train"),
        ("annotations/custom_train.json", "train2017/a.png", "train"),
        ("annotations/instances_default.json", "images/default/a.png", "default"),
        ("annotations/instances_default.json", "images/a.png", "train"),
        ("train/_annotations.coco.json", "train/a.png", "train"),
        ("_annotations.coco.json", "a.png", "all"),
        ("result.json", "images/a.png", "train"),
        ("labels.json", "data/a.png", "train"),
        ("train/labels.json", "train/data/a.png", "train"),
        ("train.json", "images/a.png", "train"),
        ("train_annotations.json", "images/a.png", "train"),
        ("train.json", "deep/down/here/a.png", "train"),
        ("coco/train.json", "pictures/a.png", "train"),
        ("anything.json", "photos/a.png", "train"),
        ("annotations.json", "a.png", "train"),
    ):
        yield Case(
            name=f"coco {json_path}, {image}: {split}",
            files={json_path: coco("a.png"), image: IMAGE},
            split=split,
            boxes={"a.png": DOG},
            layout="coco",
        )
    for written in (
        "images/a.png",
        "./a.png",
        "/home/me/set/images/a.png",
        r"C:\Users\me\images\a.png",
        "https://host/data/images/a.png",
        "s3://bucket/images/a.png",
        "A.PNG",
    ):
        yield Case(
            name=f"coco file name {written}",
            files={"annotations/instances_train.json": coco(written), "images/a.png": IMAGE},
            boxes={"images/a.png": DOG},
            layout="coco",
        )
    both = {"train2017/a.png": IMAGE, "val2017/a.png": IMAGE}
    yield Case(
        name="coco one name in two splits",
        files=both | {f"annotations/custom_{s}.json": coco("a.png") for s in ("train", "val")},
        split="custom_val",
        boxes={"val2017/a.png": DOG},
        layout="coco",
    )
    yield Case(
        name="coco an image of another split is not taken",
        files={"val2017/a.png": IMAGE, "annotations/custom_train.json": coco("a.png")},
        says=(
            "lists images that do not exist: a.png",
            "val2017/a.png exists, but belongs to another",
        ),
    )
    yield Case(
        name="coco two images of one name",
        files={"x/a.png": IMAGE, "y/a.png": IMAGE, "result.json": coco("a.png")},
        says=("a.png in", "may be x/a.png or y/a.png"),
    )
    yield Case(
        name="coco of another task is no split",
        files={"annotations/captions_train.json": coco("a.png"), "images/a.png": IMAGE},
        says=("known layout",),
    )
