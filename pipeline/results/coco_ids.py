"""Reads the ids of images and categories in a COCO annotation file, so that results can use the same ids."""

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
    """The ids in a COCO annotation file."""

    images: Mapping[int, int | str]
    """Number of an image's row in the tables of the run -> image id, a number or text as in the file. Only
    for images in the file."""
    categories: Mapping[str, int]
    """Class name -> category id."""


def read_ids(uri: str, tables: RunTables, run_id: str) -> CocoIds:
    """Match the images and classes of a COCO file (``instances_val2017.json``) with those of a run.

    Images are matched as in `jobs/evaluate.py`: by full URI, or else by the end of their paths.

    Raises:
        UserError: the file is not a COCO file, an image in it has no row, or it lacks a class of the
            detector.
    """
    with storage.driver_errors(uri):
        data = storage.read_bytes(uri)
    try:
        content = json.loads(data)
        names = [str(image["file_name"]) for image in content["images"]]
        image_ids = [_id(image["id"]) for image in content["images"]]
        named = [(str(entry["name"]), int(entry["id"])) for entry in content["categories"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"--ids {uri}",
            f"is not a COCO file ({error!r})",
            "Give a file with images and categories.",
        ) from error
    categories = dict(named)
    if len(categories) < len(named):
        names_of_categories = [name for name, _ in named]
        twice = next(name for name in categories if names_of_categories.count(name) > 1)
        numbers = " and ".join(str(number) for name, number in named if name == twice)
        raise UserError(
            f"--ids {uri}",
            f"has several categories called {twice!r} ({numbers})",
            "Remove those that the annotations do not use, or give each a different name.",
        )
    unknown = [name for name in tables.classes if name not in categories]
    if unknown:
        raise UserError(
            f"--ids {uri}",
            f"has no category called {unknown[0]!r}; it lacks {len(unknown)} of the detector's classes",
            f"Give a file with all classes of the detector. This one has: {', '.join(categories)}.",
        )
    rows = tables.rows("SELECT row, image_uri FROM images ORDER BY image_uri")
    matches = match_images(names, [image_uri for _, image_uri in rows], f"run {run_id}")
    ids = {rows[number][0]: image_id for number, image_id in zip(matches, image_ids, strict=True)}
    return CocoIds(images=ids, categories=categories)


def _id(value: object) -> int | str:
    """Return an image id as it is in the file: text stays text. ValueError: it is neither number nor text."""
    if type(value) is int or (isinstance(value, str) and value):
        return value
    raise ValueError(f"image id {value!r} is neither an integer nor text")
