"""VOC, sibling folders and LabelImg."""

from __future__ import annotations

from collections.abc import Iterator

from tests.pipeline.annotations.corpus.kit import DOG, IMAGE, XML, Case


def siblings() -> Iterator[Case]:
    for labels in ("Annotations", "annotations", "annots", "xmls", "labels", "Annotation", "ann"):
        for images in ("JPEGImages", "images", "imgs", "data"):
            yield Case(
                name=f"voc {labels} {images}",
                files={f"{labels}/a.xml": XML, f"{images}/a.png": IMAGE},
                boxes={f"{images}/a.png": DOG},
                layout="voc",
            )
    listed = {
        "annots/a.xml": XML,
        "annots/b.xml": XML,
        "images/a.png": IMAGE,
        "images/b.png": IMAGE,
    }
    for folder in ("ImageSets/Main", "ImageSets"):
        yield Case(
            name=f"voc lists in {folder}",
            files=listed | {f"{folder}/train.txt": "b\n", f"{folder}/val.txt": "a\n"},
            boxes={"b.png": DOG},
            layout="voc",
        )
    yield Case(
        name="voc subfolders",
        files={"annots/x/a.xml": XML, "images/x/a.png": IMAGE, "images/y/a.png": IMAGE},
        boxes={"images/x/a.png": DOG},
        layout="voc",
        says=("images without an XML file, left out: images/y/a.png",),
    )


def split_folders() -> Iterator[Case]:
    for name, labels, images in (
        ("behind", "annotations/{}", "images/{}"),
        ("before", "{}/annotations", "{}/images"),
        ("joined", "{}_annotations", "{}_images"),
        ("keras", "{}_annot_folder", "{}_image_folder"),
        ("hyphens", "{}-labels", "{}-imgs"),
        ("one pool of labels", "annots", "images/{}"),
        ("one pool of images", "annotations/{}", "JPEGImages"),
        ("VOC's names", "Annotations/{}", "JPEGImages/{}"),
    ):
        for train, val in (("train", "validation"), ("train", "val"), ("training", "valid")):
            files = {}
            for split, stem in ((train, "a"), (val, "b")):
                files[f"{labels.format(split)}/{stem}.xml"] = XML
                files[f"{images.format(split)}/{stem}.png"] = IMAGE
            for split, stem in (("train", "a"), (val, "b")):
                yield Case(
                    name=f"voc folders {name}, {train} and {val}: {split}",
                    files=files,
                    split=split,
                    boxes={f"{stem}.png": DOG},
                    layout="voc",
                )


def labelimg() -> Iterator[Case]:
    for folder in ("", "train/", "images/train/", "pictures/"):
        split = "train" if "train" in folder else "pictures" if folder == "pictures/" else "all"
        yield Case(
            name=f"labelimg in {folder or 'the top'}",
            files={f"{folder}a.xml": XML, f"{folder}a.png": IMAGE},
            split=split,
            boxes={"a.png": DOG},
            layout="labelimg",
        )
