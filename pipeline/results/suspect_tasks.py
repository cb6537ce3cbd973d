"""Writes the labels of suspicious images for labelling tools, and corrected labels as a data set.

tasks/labelstudio  tasks.json (two predictions: the labels, and the labels as the suspects say)
                   label_config.xml
tasks/cvat         images.txt  labels.json  annotations.json (the labels, to upload as COCO 1.0)
tasks/yolo         images.txt  data.yaml  classes.txt  labels/*.txt
corrected/annotations/instances_train.json   all images of the split, with what was judged wrong changed
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastrcnn.metrics import ImageGroundTruth
from pipeline.results.datasets import LAYOUTS, LayoutError, Picture
from pipeline.results.tasks import label_studio_box, task_files

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledPicture:
    """One image with its labels."""

    path: str
    """Its path below the folder of the images."""
    uri: str
    """As the labelling tools find it."""
    size: tuple[int, int] | None
    """(height, width). None: unknown."""
    truth: ImageGroundTruth
    corrected: ImageGroundTruth
    """The labels as the suspects say."""


def write_tasks(pictures: Sequence[LabelledPicture], classes: Sequence[str]) -> dict[str, str]:
    """Return the text of each file by its path.

    Args:
        pictures: the images with suspects; their sizes are known.
        classes: K names; label k means classes[k - 1].
    """
    plain = sum(int(picture.truth.ignored().sum()) for picture in pictures)
    if plain:
        logger.warning(
            "%d difficult or crowded objects are plain boxes in tasks/labelstudio and tasks/yolo, which have"
            " no such mark; tasks/cvat has them as crowds (iscrowd)",
            plain,
        )
    files = task_files([picture.uri for picture in pictures], classes)
    tasks = [_label_studio(picture, classes) for picture in pictures]
    files["tasks/labelstudio/tasks.json"] = json.dumps(tasks, ensure_ascii=False, indent=1) + "\n"
    files["tasks/cvat/annotations.json"] = coco_text(
        [(picture, picture.truth) for picture in pictures], classes
    )
    with tempfile.TemporaryDirectory(prefix="fastrcnn-") as folder:
        try:
            LAYOUTS["yolo"].write(_plain(pictures, classes), classes, Path(folder))
        except LayoutError as error:
            logger.warning("tasks/yolo is left out: %s %s", *error.args[:2])
            return {name: text for name, text in files.items() if "/yolo/" not in name}
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file():
                name = path.relative_to(folder).as_posix()
                files[f"tasks/yolo/{name}"] = path.read_text("utf-8")
    return files


def _plain(pictures: Sequence[LabelledPicture], classes: Sequence[str]) -> Iterator[Picture]:
    for picture in pictures:
        assert picture.size is not None
        height, width = picture.size
        boxes = [(name, *box) for name, box, _ in _objects(picture.truth, classes)]
        yield Picture(path=picture.path, width=width, height=height, boxes=boxes)


def _objects(
    truth: ImageGroundTruth, classes: Sequence[str]
) -> Iterator[tuple[str, tuple[float, float, float, float], bool]]:
    """Yield class, box and whether evaluation ignores it, of each label."""
    for box, label, ignored in zip(
        truth.boxes.astype(float).tolist(),
        truth.labels.tolist(),
        truth.ignored().tolist(),
        strict=True,
    ):
        x1, y1, x2, y2 = box
        yield classes[label - 1], (x1, y1, x2, y2), ignored


def _label_studio(picture: LabelledPicture, classes: Sequence[str]) -> dict[str, Any]:
    assert picture.size is not None
    height, width = picture.size

    def regions(truth: ImageGroundTruth) -> list[Mapping[str, Any]]:
        return [
            label_studio_box(f"r{number}", name, (x1, y1), (x2 - x1, y2 - y1), (width, height))
            for number, (name, (x1, y1, x2, y2), _) in enumerate(_objects(truth, classes))
        ]

    return {
        "data": {"image": picture.uri},
        "predictions": [
            {"model_version": "labels", "result": regions(picture.truth)},
            {"model_version": "labels as the suspects say", "result": regions(picture.corrected)},
        ],
    }


def coco_text(
    images: Sequence[tuple[LabelledPicture, ImageGroundTruth]], classes: Sequence[str]
) -> str:
    """Write labels as a COCO file. A label that evaluation ignores becomes a crowd (iscrowd)."""
    number = {name: k for k, name in enumerate(classes, 1)}
    entries: list[Mapping[str, Any]] = []
    annotations: list[Mapping[str, Any]] = []
    for image_id, (picture, truth) in enumerate(images, 1):
        entry: dict[str, Any] = {"id": image_id, "file_name": picture.path}
        if picture.size is not None:
            entry |= {"width": picture.size[1], "height": picture.size[0]}
        entries.append(entry)
        for name, (x1, y1, x2, y2), ignored in _objects(truth, classes):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": number[name],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": int(ignored),
                }
            )
    categories = [{"id": k, "name": name} for name, k in number.items()]
    document = {"images": entries, "annotations": annotations, "categories": categories}
    return json.dumps(document, ensure_ascii=False) + "\n"
