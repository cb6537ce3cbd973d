"""One case of the corpus, and what its files are made of.

Each image is 40 wide and 30 high, and each object is a dog in the box 10, 7, 30, 22, unless a case says
otherwise. The files are made in memory; the pixels of all images are the same, but not their bytes.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

Box = tuple[str, float, float, float, float]
Files = dict[str, str | bytes]

DOG: list[Box] = [("dog", 10, 7, 30, 22)]
XML = (
    "<annotation><size><width>40</width><height>30</height></size><object><name>dog</name><bndbox>"
    "<xmin>11</xmin><ymin>8</ymin><xmax>30</xmax><ymax>22</ymax></bndbox></object></annotation>"
)
LINE = "0 0.5 0.4833333333 0.5 0.5\n"
HEAD = "filename,width,height,class,xmin,ymin,xmax,ymax\n"
IMAGE = "<image>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One data set and what the reader makes of it."""

    name: str
    files: Files
    """Path -> text, or bytes. `IMAGE` stands for a picture."""
    split: str = "train"
    boxes: dict[str, list[Box]] | None = None
    """End of an image's path -> its boxes; None if the data set is refused."""
    layout: str = ""
    says: tuple[str, ...] = ()
    """Parts of the message, or of the problems."""


def write(case: Case, root: Path) -> None:
    """Write the files of a case."""
    for number, (name, text) in enumerate(case.files.items()):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = text.encode() if isinstance(text, str) else text
        path.write_bytes(picture(number) if text == IMAGE else data)


def picture(number: int) -> bytes:
    """Make a picture whose bytes depend on the number."""
    data = io.BytesIO()
    Image.new("RGB", (40, 30), (number % 256, 0, 0)).save(data, "PNG")
    return data.getvalue()


def coco(*names: str, **changes: Any) -> str:
    """Make COCO's JSON with one dog in each image."""
    images = [{"id": k, "file_name": n, "width": 40, "height": 30} for k, n in enumerate(names, 1)]
    boxes = [
        {
            "id": k,
            "image_id": k,
            "category_id": 1,
            "bbox": [10, 7, 20, 15],
            "area": 300,
            "iscrowd": 0,
        }
        for k in range(1, len(names) + 1)
    ]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "dog"}]}
    return json.dumps(content | changes, ensure_ascii=False)


def row(name: str, *box: float, size: str = "40,30", kind: str = "dog") -> str:
    """Make a line of a table as for TensorFlow."""
    return f"{name},{size},{kind},{','.join(map(str, box or (11, 8, 30, 22)))}\n"
