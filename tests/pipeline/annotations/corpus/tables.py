"""CSV and Open Images."""

from __future__ import annotations

from collections.abc import Iterator

from tests.pipeline.annotations.corpus.kit import DOG, HEAD, IMAGE, Case, row


def tables() -> Iterator[Case]:
    for table, image, split in (
        ("labels.csv", "images/a.png", "train"),
        ("annotations/train_labels.csv", "images/train/a.png", "train"),
        ("train_labels.csv", "train/a.png", "train"),
        ("train/_annotations.csv", "train/a.png", "train"),
        ("annotations.csv", "a.png", "all"),
        ("data/train.csv", "images/a.png", "train"),
    ):
        yield Case(
            name=f"table {table}, {image}",
            files={table: HEAD + row("a.png"), image: IMAGE},
            split=split,
            boxes={"a.png": DOG},
            layout="csv",
        )
    image = {"images/a.png": IMAGE}
    for head, line in (
        ("image,xmin,ymin,xmax,ymax,label", "a.png,11,8,30,22,dog"),
        ("filename;class;xmin;ymin;xmax;ymax", "a.png;dog;11;8;30;22"),
        ("image_path\tclass_name\tx1\ty1\tx2\ty2", "images/a.png\tdog\t11\t8\t30\t22"),
        ("XMin,YMin,XMax,YMax,Class,FileName", "11,8,30,22,dog,a.png"),
        ('"filename","class","x_min","y_min","x_max","y_max"', '"a.png","dog",11,8,30,22'),
        ("id,path,label,left,top,right,bottom", "7,C:\\x\\a.png,dog,11,8,30,22"),
        ("\ufefffilename,class,xmin,ymin,xmax,ymax", "a.png,dog,11,8,30,22"),
    ):
        yield Case(
            name=f"table with {head!r}",
            files=image | {"labels.csv": f"{head}\r\n{line}\r\n"},
            boxes={"a.png": DOG},
            layout="csv",
        )
    yield Case(
        name="table that counts from 0",
        files=image | {"labels.csv": HEAD + row("a.png", 0, 0, 40, 30)},
        boxes={"a.png": [("dog", 0, 0, 40, 30)]},
        says=("the smallest corner is 0, so its corners count from 0",),
    )
    yield Case(
        name="table with an image without objects",
        files=image | {"b.png": IMAGE, "labels.csv": HEAD + row("a.png") + "b.png,40,30,,,,,\n"},
        boxes={"a.png": DOG, "b.png": []},
        layout="csv",
    )
    for name, text, *says in (
        ("shares", row("a.png", 0.1, 0.1, 0.9, 0.9), "which look like shares"),
        ("swapped", row("a.png", 30, 8, 11, 22), "(line 2)", "ends before it begins"),
        ("outside", row("a.png", 11, 8, 300, 22), "(line 2)", "lies outside its image"),
        ("no number", row("a.png").replace("30\n", "?\n").replace(",22", ",x"), "line 2", "ymax"),
        ("no class", row("a.png", kind=""), "(line 2)", "names no class"),
        ("too few fields", "a.png,40,30,dog,11\n", "(line 2)", "has 5 fields"),
        ("no image", row("none.png"), "do not exist: none.png"),
        (
            "two sizes",
            row("a.png") + row("a.png", size="80,60"),
            "several sizes of the image a.png",
        ),
    ):
        yield Case(
            name=f"table refused: {name}",
            files=image | {"labels.csv": HEAD + text},
            says=("labels.csv", *says),
        )
    yield Case(
        name="two tables for one split",
        files=image | {"a.csv": HEAD + row("a.png"), "b.csv": HEAD + row("a.png")},
        says=("a.csv and b.csv are both tables of the split 'all'",),
    )


def open_images() -> Iterator[Case]:
    head = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsGroupOf\n"
    line = "a,xclick,/m/0bt9lr,1,0.25,0.75,0.2333333,0.7333333,0,0\n"
    names = {"class-descriptions-boxable.csv": "/m/0bt9lr,dog\n/m/01yrx,cat\n"}
    for table, image in (
        ("train-annotations-bbox.csv", "train/a.png"),
        ("oidv6-train-annotations-bbox.csv", "a.png"),
        ("train/labels/detections.csv", "train/data/a.png"),
    ):
        yield Case(
            name=f"open images {table}",
            files=names | {table: head + line, image: IMAGE},
            boxes={"a.png": DOG},
            layout="open_images",
        )
    yield Case(
        name="open images, a part of them",
        files=names | {"train.csv": head + line + line.replace("a,", "b,", 1), "a.png": IMAGE},
        boxes={"a.png": DOG},
        says=("images that are not here, left out: b",),
    )
    yield Case(
        name="open images in pixels",
        files={"train.csv": head + line.replace("0.75", "30"), "a.png": IMAGE},
        says=("(line 2)", "are not shares"),
    )
