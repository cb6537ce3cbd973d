"""The ids that a COCO annotation file gives to images and categories, for results to be measured on it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline import storage
from pipeline.errors import UserError
from pipeline.results.image_matching import match_images
from pipeline.results.tables import RunTables


@dataclass(frozen=True, kw_only=True, slots=True)
class CocoIds:
    """Ids of the file that was given."""

    images: Mapping[int, int]
    """By the number of the image's row in the run's tables; only images that the file knows."""
    categories: Mapping[str, int]
    """By class name."""


def read_ids(uri: str, tables: RunTables, run_id: str) -> CocoIds:
    """Match the images and classes of a COCO file (``instances_val2017.json``) with those of a run.

    Images are matched as `jobs/evaluate.py` does: by full URI, else by how their paths end.

    Raises:
        UserError: no COCO file; an image of it without a row; a class of the detector that it does not know.
    """
    with storage.driver_errors(uri):
        data = storage.read_bytes(uri)
    try:
        content = json.loads(data)
        names = [str(image["file_name"]) for image in content["images"]]
        image_ids = [int(image["id"]) for image in content["images"]]
        categories = {str(entry["name"]): int(entry["id"]) for entry in content["categories"]}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"--ids {uri}", f"is no COCO file ({error!r})", "Give one with images and categories."
        ) from error
    unknown = [name for name in tables.classes if name not in categories]
    if unknown:
        raise UserError(
            f"--ids {uri}",
            f"has no category called {unknown[0]!r}, as {len(unknown)} of the detector's classes",
            f"It has: {', '.join(categories)}.",
        )
    rows = tables.rows("SELECT row, image_uri FROM images ORDER BY image_uri")
    matches = match_images(names, [image_uri for _, image_uri in rows], f"run {run_id}")
    found = {rows[number][0]: image_id for number, image_id in zip(matches, image_ids, strict=True)}
    return CocoIds(images=found, categories=categories)
