"""Writes boxes as a labelled data set that other tools, and `jobs/train.py`, read.

    yolo          data.yaml  classes.txt  images/x.jpg  labels/x.txt
    voc           Annotations/x.xml  JPEGImages/x.jpg  ImageSets/Main/train.txt  labelmap.txt
    coco-dataset  annotations/instances_train.json  images/x.jpg

Without the images, a training reads the data set with --images-at and the folder of the images.
"""

from __future__ import annotations

import json
import logging
import posixpath
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import yaml

from pipeline.errors import UserError

logger = logging.getLogger(__name__)


class LayoutError(UserError):
    """A layout cannot hold an image, because of its name."""


SPLIT = "train"
_NO_VAL = (
    "# Ultralytics requires val too. Add a line that names the folder of other images: val: ...\n"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """One image of a data set, and its boxes."""

    path: str
    """Its path below the folder of the images."""
    width: int
    height: int
    boxes: Sequence[tuple[str, float, float, float, float]]
    """Class, then x1, y1, x2, y2 in pixels of the upright image, with continuous edges."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """A layout that can be written."""

    images: str
    """The folder of the images in it."""
    write: Callable[[Iterable[Picture], Sequence[str], Path], None]
    """Writes the labels of pictures with these classes into a local folder."""


def _write_yolo(pictures: Iterable[Picture], classes: Sequence[str], folder: Path) -> None:
    number = {name: k for k, name in enumerate(classes)}
    files = _LabelFiles(folder / "labels", ".txt")
    for picture in pictures:
        lines = []
        for name, x1, y1, x2, y2 in picture.boxes:
            shares = (
                (x1 + x2) / 2 / picture.width,
                (y1 + y2) / 2 / picture.height,
                (x2 - x1) / picture.width,
                (y2 - y1) / picture.height,
            )
            lines.append(" ".join([str(number[name]), *(f"{share:.7f}" for share in shares)]))
        files.write(picture, "".join(f"{line}\n" for line in lines))
    settings = {"train": "images", "nc": len(classes), "names": dict(enumerate(classes))}
    text = yaml.safe_dump(settings, allow_unicode=True, sort_keys=False)
    (folder / "data.yaml").write_text(_NO_VAL + text, "utf-8")
    # For Label Studio and LabelImg, which read no YAML.
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in classes), "utf-8")


def _write_voc(pictures: Iterable[Picture], classes: Sequence[str], folder: Path) -> None:
    files = _LabelFiles(folder / "Annotations", ".xml")
    for picture in pictures:
        files.write(picture, _xml(picture))
    sets = folder / "ImageSets" / "Main"
    sets.mkdir(parents=True)
    (sets / f"{SPLIT}.txt").write_text("".join(f"{stem}\n" for stem in files.stems), "utf-8")
    _write_label_map(classes, folder / "labelmap.txt")


def _write_label_map(classes: Sequence[str], path: Path) -> None:
    """Write the classes for CVAT and Datumaro, which otherwise know only the classes of PASCAL VOC."""
    unwritable = [name for name in classes if ":" in name or name.startswith("#")]
    if unwritable:
        logger.warning("no labelmap.txt for CVAT: it cannot hold the class %r", unwritable[0])
        return
    lines = [f"{name}:::\n" for name in ("background", *classes)]
    path.write_text("# label:color_rgb:parts:actions\n" + "".join(lines), "utf-8")


def _xml(picture: Picture) -> str:
    """Write one annotation file. Corners are 1-based and inclusive, with fractions of pixels."""
    objects = "".join(
        f"  <object>\n    <name>{escape(name)}</name>\n    <difficult>0</difficult>\n    <bndbox>"
        f"<xmin>{_number(x1 + 1)}</xmin><ymin>{_number(y1 + 1)}</ymin>"
        f"<xmax>{_number(x2)}</xmax><ymax>{_number(y2)}</ymax></bndbox>\n  </object>\n"
        for name, x1, y1, x2, y2 in picture.boxes
    )
    return (
        f"<annotation>\n  <filename>{escape(picture.path)}</filename>\n"
        f"  <size><width>{picture.width}</width><height>{picture.height}</height>"
        f"<depth>3</depth></size>\n{objects}</annotation>\n"
    )


def _number(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".")


def _write_coco(pictures: Iterable[Picture], classes: Sequence[str], folder: Path) -> None:
    images: list[Mapping[str, Any]] = []
    annotations: list[Mapping[str, Any]] = []
    number = {name: k for k, name in enumerate(classes, 1)}
    for image_id, picture in enumerate(pictures, 1):
        size = {"width": picture.width, "height": picture.height}
        images.append({"id": image_id, "file_name": picture.path, **size})
        for name, x1, y1, x2, y2 in picture.boxes:
            box = [x1, y1, x2 - x1, y2 - y1]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": number[name],
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    document = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": k, "name": name} for name, k in number.items()],
    }
    (folder / "annotations").mkdir()
    text = json.dumps(document, ensure_ascii=False)
    (folder / "annotations" / f"instances_{SPLIT}.json").write_text(text, "utf-8")


class _LabelFiles:
    """Writes one label file per image; refuses two images with one stem, and names that leave the folder."""

    def __init__(self, folder: Path, suffix: str) -> None:
        self._folder, self._suffix = folder, suffix
        self.stems: dict[str, str] = {}
        """Path without suffix -> path of the image."""

    def write(self, picture: Picture, text: str) -> None:
        stem = posixpath.splitext(picture.path)[0]
        if (other := self.stems.setdefault(stem, picture.path)) != picture.path:
            raise LayoutError(
                picture.path,
                f"has the same stem as {other}, and this layout has one label file per stem",
                "Give another layout, such as that of COCO (--format coco-dataset).",
            )
        parts = posixpath.normpath(stem).split("/")
        if stem.startswith("/") or parts[0] == ".." or "\0" in stem:
            raise LayoutError(
                picture.path,
                "leads out of the folder of the data set, and this layout names label files as images",
                "Give another layout, such as that of COCO (--format coco-dataset).",
            )
        path = self._folder / f"{stem}{self._suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")


LAYOUTS: Mapping[str, Layout] = {
    "yolo": Layout(images="images", write=_write_yolo),
    "voc": Layout(images="JPEGImages", write=_write_voc),
    "coco-dataset": Layout(images="images", write=_write_coco),
}
