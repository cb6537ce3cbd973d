"""Exports a scoring run to other tools: the boxes in the newest row of each image with status `ok`.

    coco         coco_results.json    for pycocotools' loadRes: image_id, category_id, bbox (xywh), score
                 coco_images.json     the images and categories of these ids; not written if --ids is given
    fiftyone     labels.json          FiftyOneImageDetectionDataset: boxes as shares of the image, xywh
                 data.json            the path of each of its samples
    labelstudio  tasks.json           tasks with the boxes as predictions: percent of the image, xywh
                 label_config.xml     the labelling interface for these tasks
    yolo, voc, coco-dataset           a labelled data set: `pipeline.results.datasets`
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

from pipeline import compact, storage
from pipeline.config import CompactConfig, ExportConfig
from pipeline.results import lake
from pipeline.results.coco_ids import CocoIds, read_ids
from pipeline.results.datasets import LAYOUTS, Picture
from pipeline.results.scored import RunFiles, find_run
from pipeline.results.tables import RunTables, load_run, work_folder
from pipeline.results.tasks import label_config, label_studio_box
from pipeline.runtime.prefetch import in_threads
from pipeline.storage.chains import UNPACKED_SQL, unpacked

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
    if config.format != "iceberg":  # its output is the name of a table
        storage.check_writable(config.output)
    files = find_run(config.scored, config.run_id)
    if config.format in ("iceberg", "delta"):
        return _write_to_lake(config, files)
    with load_run(files, memory_gib=config.memory_gib, temp_folder=config.temp_folder) as tables:
        ids = read_ids(config.ids, tables, files.run_id) if config.ids else None
        images = _CountingImages(_images(tables, config, ids))
        with work_folder(config.temp_folder) as folder:
            if config.format in LAYOUTS:
                uris: tuple[str, ...] = (_write_data_set(config, images, tables, Path(folder)),)
                names: list[str] = []
            else:
                names = _FORMATS[config.format](images, tables, ids, Path(folder))
                uris = tuple(storage.join(config.output, name) for name in names)
            if config.dry_run:
                logger.info("--dry-run: nothing was written")
            else:
                with storage.driver_errors(config.output):
                    for name in names:
                        storage.upload_file(Path(folder) / name, storage.join(config.output, name))
    logger.info(
        "run %s: %d images, %d boxes in format %s: %s",
        files.run_id,
        images.images,
        images.boxes,
        config.format,
        ", ".join(uris),
    )
    return ExportSummary(uris=uris, images=images.images, boxes=images.boxes)


def _write_data_set(
    config: ExportConfig, images: Iterable[ScoredImage], tables: RunTables, folder: Path
) -> str:
    """Write a labelled data set, and copy its images if --copy-images is given. Return its URI."""
    layout = LAYOUTS[config.format]
    root = _common_folder(tables)
    copied: list[tuple[str, str]] = []

    def pictures() -> Iterator[Picture]:
        for image in images:
            path = unpacked(image["image_uri"]).removeprefix(root)
            copied.append((image["image_uri"], path))
            boxes = [
                (b["label"], b["x"], b["y"], b["x"] + b["w"], b["y"] + b["h"])
                for b in image["boxes"]
            ]
            yield Picture(path=path, width=image["width"], height=image["height"], boxes=boxes)

    layout.write(pictures(), tables.classes, folder)
    if config.dry_run:
        return config.output

    def copy(image: tuple[str, str]) -> None:
        uri, path = image
        target = storage.join(config.output, layout.images, path)
        storage.write_bytes(target, storage.read_bytes(uri))

    with storage.driver_errors(config.output):
        storage.upload_folder(folder, config.output)
        if config.copy_images:
            in_threads(copy, copied)
    if not config.copy_images:
        logger.info("to train on it: --data %s --images-at %s", config.output, root)
    return config.output


def _write_to_lake(config: ExportConfig, files: RunFiles) -> ExportSummary:
    """Update the table under detections/, then replace the table of the lake with it."""
    lake.check(config)
    (table,) = compact.run(
        CompactConfig(
            scored=config.scored,
            output=files.root,
            run_id=files.run_id,
            memory_gib=config.memory_gib,
            temp_folder=config.temp_folder,
        )
    )
    lake.write(config, table.uri)
    logger.info("run %s: %d boxes, table %s replaced", files.run_id, table.boxes, config.output)
    return ExportSummary(uris=(config.output,), images=table.images, boxes=table.boxes)


class _CountingImages:
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
                below = unpacked(image["image_uri"]).removeprefix(root)
                image["image_uri"] = storage.join(os.path.expanduser(config.image_root), below)
            yield image


def _common_folder(tables: RunTables) -> str:
    """Return the deepest folder that holds all images, with its slash. An archive counts as a folder."""
    ((first, last),) = tables.rows(f"SELECT min({UNPACKED_SQL}), max({UNPACKED_SQL}) FROM images")
    num_common = next(
        (i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first)
    )
    return str(first[: first.rfind("/", 0, num_common) + 1])


# --- COCO ----------------------------------------------------------------------------------------


def _coco(
    images: Iterable[ScoredImage], tables: RunTables, ids: CocoIds | None, folder: Path
) -> list[str]:
    described: list[dict[str, Any]] = []
    number: Mapping[str, int] = (
        ids.categories if ids else {name: k for k, name in enumerate(tables.classes, 1)}
    )

    def results() -> Iterator[dict[str, Any]]:
        for index, image in enumerate(images, 1):
            image_id = ids.images[image["row"]] if ids else index
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
        for index, image in enumerate(images):
            name = json.dumps(f"{index:09d}")
            comma = ",\n" if index else "\n"
            boxes = [_as_shares(box, image) for box in image["boxes"]]
            labels.write(f"{comma}{name}: {json.dumps(boxes, ensure_ascii=False)}")
            data.write(f"{comma}{name}: {json.dumps(image['image_uri'], ensure_ascii=False)}")
        labels.write("\n}}\n")
        data.write("\n}\n")
    return ["labels.json", "data.json"]


def _as_shares(box: Mapping[str, Any], image: ScoredImage) -> dict[str, Any]:
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
    (folder / "label_config.xml").write_text(label_config(tables.classes), "utf-8")
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
    return label_studio_box(
        f"box-{box['detection']}",
        box["label"],
        (box["x"], box["y"]),
        (box["w"], box["h"]),
        (image["width"], image["height"]),
        box["score"],
    )


def _write_list(path: Path, items: Iterable[Mapping[str, Any]]) -> None:
    """Write a JSON list with one item per line. Only one item at a time is in memory."""
    with path.open("w", encoding="utf-8") as file:
        file.write("[")
        for index, item in enumerate(items):
            file.write(",\n" if index else "\n")
            file.write(json.dumps(item, ensure_ascii=False))
        file.write("\n]\n")


_Writer = Callable[[Iterable[ScoredImage], RunTables, CocoIds | None, Path], list[str]]
_FORMATS: dict[str, _Writer] = {
    "coco": _coco,
    "fiftyone": _fiftyone,
    "labelstudio": _label_studio,
}
