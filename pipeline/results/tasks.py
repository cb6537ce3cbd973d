"""Writes labelling tasks for the drawn images. They are blind: no box and no score of the detector is in
them, because a person who sees predicted boxes confirms them.

    tasks/labelstudio  tasks.json  label_config.xml
    tasks/cvat         images.txt (a URI a line)  labels.json (the labels of a new task, as raw text)
    tasks/yolo         images.txt  data.yaml  classes.txt
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from typing import Any
from xml.sax.saxutils import quoteattr

import yaml

from pipeline.drawing.pictures import PALETTE
from pipeline.storage.chains import split_chain

logger = logging.getLogger(__name__)


def task_files(images: Sequence[str], classes: Sequence[str]) -> dict[str, str]:
    """Return the text of each file by its path.

    Args:
        images: each image once, as the labelling tools find it.
        classes: the classes to count.
    """
    names = "".join(f"{name}\n" for name in classes)
    lines = "".join(f"{uri}\n" for uri in images)
    data = {"train": "images.txt", "nc": len(classes), "names": dict(enumerate(classes))}
    broken = [name for name in (*images, *classes) if len(name.splitlines()) > 1]
    if broken:
        logger.warning(
            "tasks/cvat and tasks/yolo are left out: they hold a name a line, and %r has several lines",
            broken[0],
        )
    packed = [uri for uri in images if split_chain(uri)]
    if packed:
        logger.warning(
            "%d images of the tasks lie in archives, such as %s. Labelling tools cannot open these: unpack"
            " the archives, and give --image-root",
            len(packed),
            packed[0],
        )
    files = {
        "tasks/labelstudio/tasks.json": _json([{"data": {"image": uri}} for uri in images]),
        "tasks/labelstudio/label_config.xml": label_config(classes),
        "tasks/cvat/images.txt": lines,
        "tasks/cvat/labels.json": _json(
            [{"name": name, "type": "rectangle", "attributes": []} for name in classes]
        ),
        "tasks/yolo/images.txt": lines,
        "tasks/yolo/data.yaml": yaml.safe_dump(data, allow_unicode=True, sort_keys=False),
        "tasks/yolo/classes.txt": names,
    }
    return {path: text for path, text in files.items() if not broken or "/labelstudio/" in path}


def _json(items: object) -> str:
    return json.dumps(items, ensure_ascii=False, indent=1) + "\n"


def label_studio_box(
    name: str,
    label: str,
    corner: tuple[float, float],
    sides: tuple[float, float],
    image: tuple[int, int],
    score: float | None = None,
) -> dict[str, Any]:
    """Return a box as a region of Label Studio, for the interface of `label_config`.

    Args:
        name: the id of the region in its image.
        corner: x and y of the upper left corner, pixels.
        sides: width and height of the box, pixels.
        image: width and height of the image, pixels. Label Studio wants per cent of these.
        score: of a detection.
    """
    width, height = image
    return {
        "id": name,
        "type": "rectanglelabels",
        "from_name": "label",
        "to_name": "image",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        **({} if score is None else {"score": score}),
        "value": {
            "x": 100 * corner[0] / width,
            "y": 100 * corner[1] / height,
            "width": 100 * sides[0] / width,
            "height": 100 * sides[1] / height,
            "rotation": 0,
            "rectanglelabels": [label],
        },
    }


def label_config(classes: Iterable[str]) -> str:
    """Return the labelling interface of Label Studio for these classes."""
    colours = ["#{:02x}{:02x}{:02x}".format(*colour) for colour in PALETTE]
    labels = "".join(
        f'    <Label value={quoteattr(name)} background="{colours[k % len(colours)]}"/>\n'
        for k, name in enumerate(classes)
    )
    return (
        '<View>\n  <Image name="image" value="$image"/>\n'
        f'  <RectangleLabels name="label" toName="image">\n{labels}  </RectangleLabels>\n</View>\n'
    )
