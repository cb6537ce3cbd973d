"""Exports a scoring run to other tools: the boxes in the newest row of each image with status `ok`.

    coco         coco_results.json    for pycocotools' loadRes: image_id, category_id, bbox (xywh), score
                 coco_images.json     the images and categories of these ids; not written if --ids is given
    fiftyone     labels.json          FiftyOneImageDetectionDataset: boxes as shares of the image, xywh
                 data.json            the path of each of its samples
    labelstudio  tasks.json           tasks with the boxes as predictions: percent of the image, xywh
                 label_config.xml     the labelling interface for these tasks
    iceberg, delta                    a table of a data lake: `pipeline.results.lake`

The files are written on this machine's disk row by row. Then each file is uploaded in one step.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

from pipeline import compact, storage
from pipeline.config import CompactConfig, ExportConfig
from pipeline.drawing.pictures import PALETTE
from pipeline.results import lake
from pipeline.results.coco_ids import CocoIds, read_ids
from pipeline.results.scored import RunFiles, find_run
from pipeline.results.tables import RunTables, load_run, work_folder

logger = logging.getLogger(__name__)

_IMAGES_PER_BATCH = 1000
_IMAGES = """
SELECT row, image_uri, width, height, coalesce(boxes, []) AS boxes
FROM images LEFT JOIN (
    SELECT row, list({{'detection': detection, 'label': label, 'label_id': label_id, 'score': score,
        'x': x_min, 'y': y_min, 'w': x_max - x_min, 'h': y_max - y_min}} ORDER BY detection) AS boxes
    FROM boxes WHERE score >= {min_score} GROUP BY row) USING (row)
WHERE status = 'ok' ORDER BY image_uri {limit}"""

ScoredImage = Mapping[str, Any]
"""A row of `_IMAGES`. Boxes are in pixels of the upright image and sorted by falling score."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportSummary:
    """The files or the table that were written, and their counts."""

    uris: tuple[str, ...]
    images: int
    boxes: int


def run(config: ExportConfig) -> ExportSummary:
    """Write the files of one format.

    Raises:
        UserError: there is no run, or several and no --run-id; the ids do not fit the run; or access is
            denied.
        JobError: the disk is full or the memory is too small.
    """
    files = find_run(config.scored, config.run_id)
    if config.format in ("iceberg", "delta"):
        return _write_to_lake(config, files)
    with load_run(files, memory_gib=config.memory_gib, temp_folder=config.temp_folder) as tables:
        ids = read_ids(config.ids, tables, files.run_id) if config.ids else None
        images = _Counted(_images(tables, config, ids))
        with work_folder(config.temp_folder) as folder:
            names = _FORMATS[config.format](images, tables, ids, Path(folder))
            uris = tuple(storage.join(config.output, name) for name in names)
            if config.dry_run:
                logger.info("--dry-run: nothing was written")
            else:
                with storage.driver_errors(config.output):
                    for name, uri in zip(names, uris, strict=True):
                        storage.upload_file(Path(folder) / name, uri)
    logger.info(
        "run %s: %d images, %d boxes in format %s: %s",
        files.run_id,
        images.images,
        images.boxes,
        config.format,
        ", ".join(uris),
    )
    return ExportSummary(uris=uris, images=images.images, boxes=images.boxes)


def _write_to_lake(config: ExportConfig, files: RunFiles) -> ExportSummary:
    """Update the table under detections/, then replace the table of the lake with it."""
    lake.check(config)
    (made,) = compact.run(
        CompactConfig(
            scored=config.scored,
            output=files.root,
            run_id=files.run_id,
            memory_gib=config.memory_gib,
            temp_folder=config.temp_folder,
        )
    )
    lake.write(config, made.uri)
    logger.info("run %s: %d boxes, table %s replaced", files.run_id, made.boxes, config.output)
    return ExportSummary(uris=(config.output,), images=made.images, boxes=made.boxes)


class _Counted:
    """Iterates over images and counts them and their boxes."""

    def __init__(self, images: Iterable[ScoredImage]) -> None:
        self._images = images
        self.images = self.boxes = 0

    def __iter__(self) -> Iterator[ScoredImage]:
        for image in self._images:
            self.images += 1
            self.boxes += len(image["boxes"])
            yield image


def _images(tables: RunTables, config: ExportConfig, ids: CocoIds | None) -> Iterator[ScoredImage]:
    limit = "" if config.limit is None else f"LIMIT {config.limit}"
    root = _common_folder(tables) if config.image_root is not None else ""
    for batch in tables.stream(
        _IMAGES.format(min_score=config.min_score, limit=limit), _IMAGES_PER_BATCH
    ):
        for image in batch.to_pylist():
            if ids is not None and image["row"] not in ids.images:
                continue
            if config.image_root is not None:
                below = image["image_uri"].removeprefix(root)
                image["image_uri"] = storage.join(os.path.expanduser(config.image_root), below)
            yield image


def _common_folder(tables: RunTables) -> str:
    """Return the longest folder URI with which every image URI starts, with its slash."""
    ((first, last),) = tables.rows("SELECT min(image_uri), max(image_uri) FROM images")
    same = next(
        (i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first)
    )
    return str(first[: first.rfind("/", 0, same) + 1])


# --- COCO ----------------------------------------------------------------------------------------


def _coco(
    images: Iterable[ScoredImage], tables: RunTables, ids: CocoIds | None, folder: Path
) -> list[str]:
    described: list[dict[str, Any]] = []
    number: Mapping[str, int] = (
        ids.categories if ids else {name: k for k, name in enumerate(tables.classes, 1)}
    )

    def results() -> Iterator[dict[str, Any]]:
        for place, image in enumerate(images, 1):
            image_id = ids.images[image["row"]] if ids else place
            size = {"width": image["width"], "height": image["height"]}
            described.append({"id": image_id, "file_name": image["image_uri"], **size})
            for box in image["boxes"]:
                yield {
                    "image_id": image_id,
                    "category_id": number[box["label"]],
                    "bbox": [box["x"], box["y"], box["w"], box["h"]],
                    "score": box["score"],
                }

    _write_list(folder / "coco_results.json", results())
    if ids:
        return ["coco_results.json"]
    head = {
        "info": {"description": f"Images scored by model {tables.model_id}"},
        "images": described,
        "annotations": [],
        "categories": [{"id": k, "name": name} for name, k in number.items()],
    }
    (folder / "coco_images.json").write_text(json.dumps(head, ensure_ascii=False), "utf-8")
    return ["coco_results.json", "coco_images.json"]


# --- FiftyOne ------------------------------------------------------------------------------------


def _fiftyone(
    images: Iterable[ScoredImage], tables: RunTables, ids: CocoIds | None, folder: Path
) -> list[str]:
    with (
        (folder / "labels.json").open("w", encoding="utf-8") as labels,
        (folder / "data.json").open("w", encoding="utf-8") as data,
    ):
        labels.write('{"labels": {')
        data.write("{")
        for place, image in enumerate(images):
            name = json.dumps(f"{place:09d}")
            comma = ",\n" if place else "\n"
            boxes = [_share(box, image) for box in image["boxes"]]
            labels.write(f"{comma}{name}: {json.dumps(boxes, ensure_ascii=False)}")
            data.write(f"{comma}{name}: {json.dumps(image['image_uri'], ensure_ascii=False)}")
        labels.write("\n}}\n")
        data.write("\n}\n")
    return ["labels.json", "data.json"]


def _share(box: Mapping[str, Any], image: ScoredImage) -> dict[str, Any]:
    width, height = image["width"], image["height"]
    return {
        "label": box["label"],
        "bounding_box": [box["x"] / width, box["y"] / height, box["w"] / width, box["h"] / height],
        "confidence": box["score"],
    }


# --- Label Studio --------------------------------------------------------------------------------


def _label_studio(
    images: Iterable[ScoredImage], tables: RunTables, ids: CocoIds | None, folder: Path
) -> list[str]:
    _write_list(folder / "tasks.json", (_task(image, tables.model_id) for image in images))
    (folder / "label_config.xml").write_text(_label_config(tables.classes), "utf-8")
    return ["tasks.json", "label_config.xml"]


def _task(image: ScoredImage, model_id: str) -> dict[str, Any]:
    boxes = image["boxes"]
    prediction = {
        "model_version": model_id,
        "score": boxes[0]["score"] if boxes else 0.0,
        "result": [_region(box, image) for box in boxes],
    }
    return {"data": {"image": image["image_uri"]}, "predictions": [prediction]}


def _region(box: Mapping[str, Any], image: ScoredImage) -> dict[str, Any]:
    width, height = image["width"], image["height"]
    return {
        "id": f"box-{box['detection']}",
        "type": "rectanglelabels",
        "from_name": "label",
        "to_name": "image",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "score": box["score"],
        "value": {
            "x": 100 * box["x"] / width,
            "y": 100 * box["y"] / height,
            "width": 100 * box["w"] / width,
            "height": 100 * box["h"] / height,
            "rotation": 0,
            "rectanglelabels": [box["label"]],
        },
    }


def _label_config(classes: Iterable[str]) -> str:
    colours = ["#{:02x}{:02x}{:02x}".format(*colour) for colour in PALETTE]
    labels = "".join(
        f'    <Label value={quoteattr(name)} background="{colours[k % len(colours)]}"/>\n'
        for k, name in enumerate(classes)
    )
    return (
        '<View>\n  <Image name="image" value="$image"/>\n'
        f'  <RectangleLabels name="label" toName="image">\n{labels}  </RectangleLabels>\n</View>\n'
    )


def _write_list(path: Path, items: Iterable[Mapping[str, Any]]) -> None:
    """Write a JSON list with one item per line. Only one item at a time is in memory."""
    with path.open("w", encoding="utf-8") as file:
        file.write("[")
        for place, item in enumerate(items):
            file.write(",\n" if place else "\n")
            file.write(json.dumps(item, ensure_ascii=False))
        file.write("\n]\n")


_Writer = Callable[[Iterable[ScoredImage], RunTables, CocoIds | None, Path], list[str]]
_FORMATS: dict[str, _Writer] = {
    "coco": _coco,
    "fiftyone": _fiftyone,
    "labelstudio": _label_studio,
}
