"""Writes one labelled data set in the layouts that people have."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.annotations import read_labelled_images

Box = tuple[str, float, float, float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Labelled:
    """One image and its boxes: class, then corners in pixels, with continuous edges."""

    path: Path
    width: int
    height: int
    boxes: Sequence[Box]

    def shares(self, box: Box) -> tuple[float, float, float, float]:
        """Return YOLO's centre and size of a box."""
        _, x1, y1, x2, y2 = box
        w, h = self.width, self.height
        return (x1 + x2) / 2 / w, (y1 + y2) / 2 / h, (x2 - x1) / w, (y2 - y1) / h


def read_set(data: str, split: str) -> tuple[list[Labelled], tuple[str, ...]]:
    """Read a local data set, and its classes. The sizes are those of the image files."""
    from PIL import Image

    labelled = read_labelled_images(data, split)
    images = []
    for image in labelled.images:
        path = Path(image.image_uri)
        with Image.open(path) as opened:
            width, height = opened.size
        names = [labelled.classes[k - 1] for k in image.gt_labels.tolist()]
        boxes = [(n, *b) for n, b in zip(names, image.gt_boxes.tolist(), strict=True)]
        images.append(Labelled(path=path, width=width, height=height, boxes=boxes))
    return images, labelled.classes


def _link(images: Sequence[Labelled], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for image in images:
        (folder / image.path.name).symlink_to(image.path.resolve())


def _texts(images: Sequence[Labelled], classes: Sequence[str], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for image in images:
        lines = [
            f"{classes.index(box[0])} {' '.join(map(repr, image.shares(box)))}\n"
            for box in image.boxes
        ]
        (folder / f"{image.path.stem}.txt").write_text("".join(lines))


def _xmls(images: Sequence[Labelled], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for image in images:
        objects = "".join(
            f"<object><name>{name}</name><bndbox><xmin>{x1 + 1:g}</xmin><ymin>{y1 + 1:g}</ymin>"
            f"<xmax>{x2:g}</xmax><ymax>{y2:g}</ymax></bndbox></object>"
            for name, x1, y1, x2, y2 in image.boxes
        )
        size = f"<size><width>{image.width}</width><height>{image.height}</height></size>"
        (folder / f"{image.path.stem}.xml").write_text(f"<annotation>{size}{objects}</annotation>")


def yolo(images: Sequence[Labelled], classes: Sequence[str], root: Path) -> None:
    """Write Ultralytics' YAML."""
    _link(images, root / "images/train")
    _texts(images, classes, root / "labels/train")
    (root / "data.yaml").write_text(f"train: images/train\nnames: {json.dumps(list(classes))}\n")


def sibling_voc(images: Sequence[Labelled], classes: Sequence[str], root: Path) -> None:
    """Write VOC's XML in annots/, without lists."""
    _link(images, root / "images")
    _xmls(images, root / "annots")


def labelimg(images: Sequence[Labelled], classes: Sequence[str], root: Path) -> None:
    """Write XML beside the images."""
    _link(images, root / "train")
    _xmls(images, root / "train")


def labelimg_yolo(images: Sequence[Labelled], classes: Sequence[str], root: Path) -> None:
    """Write YOLO's lines and classes.txt beside the images."""
    _link(images, root / "train")
    _texts(images, classes, root / "train")
    (root / "train/classes.txt").write_text("".join(f"{name}\n" for name in classes))


def darknet(images: Sequence[Labelled], classes: Sequence[str], root: Path) -> None:
    """Write darknet's obj.data and its list of images."""
    _link(images, root / "obj_train_data")
    _texts(images, classes, root / "obj_train_data")
    (root / "obj.data").write_text("train = data/train.txt\nnames = data/obj.names\n")
    (root / "obj.names").write_text("".join(f"{name}\n" for name in classes))
    listed = (f"data/obj_train_data/{image.path.name}\n" for image in images)
    (root / "train.txt").write_text("".join(listed))


def coco(images: Sequence[Labelled], classes: Sequence[str], root: Path) -> None:
    """Write COCO's JSON with a name that people choose."""
    _link(images, root / "train2017")
    boxes = [
        {"image_id": number, "category_id": classes.index(name), "bbox": [x1, y1, x2 - x1, y2 - y1]}
        for number, image in enumerate(images)
        for name, x1, y1, x2, y2 in image.boxes
    ]
    document = {
        "images": [
            {"id": k, "file_name": i.path.name, "width": i.width, "height": i.height}
            for k, i in enumerate(images)
        ],
        "annotations": [
            {"id": k, "area": b["bbox"][2] * b["bbox"][3], "iscrowd": 0} | b  # type: ignore[index]
            for k, b in enumerate(boxes)
        ],
        "categories": [{"id": k, "name": name} for k, name in enumerate(classes)],
    }
    (root / "annotations").mkdir()
    (root / "annotations/custom_train.json").write_text(json.dumps(document))


def csv(images: Sequence[Labelled], classes: Sequence[str], root: Path) -> None:
    """Write the table of TensorFlow's tutorials."""
    _link(images, root / "images/train")
    rows = [
        f"{image.path.name},{image.width},{image.height},{name},{x1 + 1:g},{y1 + 1:g},{x2:g},{y2:g}\n"
        for image in images
        for name, x1, y1, x2, y2 in image.boxes
    ]
    (root / "annotations").mkdir()
    head = "filename,width,height,class,xmin,ymin,xmax,ymax\n"
    (root / "annotations/train_labels.csv").write_text(head + "".join(rows))


def open_images(images: Sequence[Labelled], classes: Sequence[str], root: Path) -> None:
    """Write the tables of Open Images."""
    _link(images, root / "train")
    rows = []
    for image in images:
        for name, x1, y1, x2, y2 in image.boxes:
            xs, ys = (x1 / image.width, x2 / image.width), (y1 / image.height, y2 / image.height)
            shares = ",".join(map(repr, (*xs, *ys)))
            rows.append(f"{image.path.stem},x,/m/{classes.index(name)},1,{shares}\n")
    head = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax\n"
    (root / "train-annotations-bbox.csv").write_text(head + "".join(rows))
    names = "".join(f"/m/{k},{name}\n" for k, name in enumerate(classes))
    (root / "class-descriptions-boxable.csv").write_text(names)


WRITERS: dict[str, Callable[[Sequence[Labelled], Sequence[str], Path], None]] = {
    function.__name__: function
    for function in (
        yolo, sibling_voc, labelimg, labelimg_yolo, darknet, coco, csv, open_images,
    )
}  # fmt: skip
IN_PIXELS = {"sibling_voc", "labelimg", "coco", "csv"}
"""The others write shares of the image, which are rounded when they become pixels."""
