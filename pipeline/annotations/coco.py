"""The COCO format: one JSON file a split, with images, categories and annotations (xywh boxes).

    annotations/instances_<split>.json | annotations/<split>.json   images: images/<split>/, <split>/, images/
    <split>/_annotations.coco.json | <split>/annotations.json       images beside the JSON file
    instances_<split>.json | <split>.json (with a folder <split>/)  as the first line, without annotations/

The classes are the categories by rising id, without gaps: the ids 1, 2, 90 become the labels 1, 2, 3.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterable
from typing import Any

from pipeline.annotations.labelled import (
    Annotations,
    Format,
    NamedBox,
    NamedImage,
    finite,
    first_few,
)
from pipeline.annotations.tree import Tree
from pipeline.errors import UserError

# If two files are for one split, the file that matches the earlier pattern is read.
_NAMES = tuple(
    re.compile(pattern)
    for pattern in (
        r"annotations/instances_(?P<split>[^/]+)\.json",
        r"(?P<split>[^/]+)/_annotations\.coco\.json",
        r"instances_(?P<split>[^/]+)\.json",
        r"annotations/(?!captions_|person_keypoints_|panoptic_|stuff_|image_info_)(?P<split>[^/]+)\.json",
        r"(?!annotations/)(?P<split>[^/]+)/annotations\.json",
        r"(?P<split>[^/]+)\.json",
    )
)


def _looks_like(tree: Tree) -> bool:
    """Whether some JSON file has one of the names above."""
    return bool(_files(tree))


def _splits(tree: Tree) -> tuple[str, ...]:
    """List the splits by the names of the JSON files."""
    return tuple(sorted(_files(tree)))


def _read(tree: Tree, split: str, limit: int | None) -> Annotations:
    """Read the JSON file of a split; keep the first `limit` images by URI."""
    path = _files(tree)[split]
    uri = tree.uri(path)
    document = _load(tree, path)
    names = _categories(document["categories"], uri)
    images = _locate(tree, path, split, document["images"])
    sizes = {str(entry["id"]): _size(entry, uri) for entry in document["images"]}
    boxes = _boxes(document["annotations"], names, set(images), uri)
    placed = sorted((image_uri, image_id) for image_id, image_uri in images.items())
    named = tuple(
        NamedImage(image_uri, uri, image_id, tuple(boxes.get(image_id, ())), sizes[image_id])
        for image_uri, image_id in placed[:limit]
    )
    _check_once((name for name in names.values()), "category name", uri)
    return Annotations(named, tuple(names.values()), ())


def _files(tree: Tree) -> dict[str, str]:
    """Map each split to the path of its JSON file."""
    tops = {path.partition("/")[0] for path in tree.paths if "/" in path}
    ranked: dict[str, tuple[int, str]] = {}
    for path in tree.below("", (".json",)):
        matches = ((rank, name.fullmatch(path)) for rank, name in enumerate(_NAMES))
        rank, match = next(((r, m) for r, m in matches if m), (0, None))
        # The last pattern fits every JSON file: x.json counts only if there is a folder x.
        if match and (rank < len(_NAMES) - 1 or match["split"] in tops):
            ranked[match["split"]] = min((rank, path), ranked.get(match["split"], (rank, path)))
    return {split: path for split, (_, path) in ranked.items()}


def _load(tree: Tree, path: str) -> dict[str, list[Any]]:
    uri = tree.uri(path)
    try:
        document = json.loads(tree.read(path))
    except (ValueError, RecursionError) as error:  # bad JSON, bad Unicode; a million brackets
        raise UserError(
            uri, f"is not readable as JSON ({error})", "Export the annotations again."
        ) from error
    for section in ("images", "annotations", "categories"):
        entries = document.get(section) if isinstance(document, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise UserError(
                uri, f"has no list of {section}", "Expected COCO's format for object detection."
            )
    sections: dict[str, list[Any]] = document
    return sections


def _categories(entries: list[dict[str, Any]], uri: str) -> dict[int, str]:
    """Map category ids to names, by rising id."""
    for entry in entries:
        name = entry.get("name")
        if type(entry.get("id")) is not int or not isinstance(name, str) or not name.strip():
            raise UserError(
                f"category {_short(entry)} in {uri}",
                "has no integer id or no name",
                "Each category needs an integer id and a name.",
            )
    _check_once((entry["id"] for entry in entries), "category id", uri)
    return {entry["id"]: entry["name"] for entry in sorted(entries, key=lambda entry: entry["id"])}


def _locate(tree: Tree, path: str, split: str, entries: list[dict[str, Any]]) -> dict[str, str]:
    """Map each image id, as text, to the URI of the image, in the first usual folder that has it."""
    beside = posixpath.dirname(path)
    folders = list(dict.fromkeys((f"images/{split}", split, beside, "images", "")))
    located: dict[str, str] = {}
    absent = []
    for entry in entries:
        image_id = _id(entry.get("id"), f"image {_short(entry)}", tree.uri(path))
        if image_id in located:
            raise UserError(
                f"image id {image_id} in {tree.uri(path)}",
                "is used twice",
                "Give each image a different id.",
            )
        name = entry.get("file_name", "")
        if not isinstance(name, str):
            raise UserError(
                f"image id {image_id} in {tree.uri(path)}",
                f"file_name {_short(name)} is not text",
                "Expected the file name of the image.",
            )
        name = name.replace("\\", "/")
        paths = (posixpath.normpath(posixpath.join(folder, name)) for folder in folders)
        existing = next((path for path in paths if path in tree.known), None)
        if existing is None:
            absent.append(name or f"(image id {image_id} has no file_name)")
        located[image_id] = tree.uri(existing or name)
    if absent:
        where = ", ".join(f"{folder}/" for folder in folders if folder)
        raise UserError(
            tree.uri(path),
            f"lists images that do not exist: {first_few(absent)}",
            f"Searched in {where}. Add the images, or remove them from the list.",
        )
    _check_once(located.values(), "image", tree.uri(path))
    return located


def _size(entry: dict[str, Any], uri: str) -> tuple[int, int] | None:
    """Return the (height, width) that an entry of `images` states; None unless it states both."""
    sides = [entry.get(name) for name in ("height", "width")]
    if any(side is None for side in sides):
        return None
    height, width = sides
    if type(height) is not int or type(width) is not int or min(height, width) < 1:
        raise UserError(
            f"image {entry['id']} in {uri}",
            f"has width {_short(width)}, height {_short(height)}",
            "Expected integers of 1 or more. Correct them, or leave both out.",
        )
    return height, width


def _boxes(
    entries: list[dict[str, Any]], names: dict[int, str], images: set[str], uri: str
) -> dict[str, list[NamedBox]]:
    """Map each image id, as text, to the boxes of the image."""
    boxes: dict[str, list[NamedBox]] = {}
    if any("id" in entry for entry in entries):
        _check_once((str(entry.get("id")) for entry in entries), "annotation id", uri)
    orphans = []
    for number, entry in enumerate(entries):
        where = f"annotation {entry.get('id', f'number {number}')}"
        image_id = _id(entry.get("image_id"), where, uri)
        if image_id not in images:
            orphans.append(where)
            continue
        category = entry.get("category_id")
        if type(category) is not int or category not in names:
            raise UserError(
                f"{where} in {uri}",
                f"category_id {_short(category)} is not among the categories",
                f"The category ids are {first_few([str(known) for known in names])}.",
            )
        boxes.setdefault(image_id, []).append(_box(entry, names, where, uri))
    if orphans:
        raise UserError(
            uri,
            f"has annotations of images that it does not list: {first_few(orphans)}",
            "List the images, or remove the annotations.",
        )
    return boxes


def _box(entry: dict[str, Any], names: dict[int, str], where: str, uri: str) -> NamedBox:
    """Read one annotation: xywh -> xyxy."""
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4:
        raise UserError(
            f"{where} in {uri}",
            f"bbox {_short(box)} is not [x, y, w, h]",
            "Write the bounding box of its segmentation, or remove the annotation.",
        )
    if any(isinstance(edge, str) for edge in box):
        raise UserError(f"{where} in {uri}", f"bbox {_short(box)} holds text", "Expected numbers.")
    if (crowd := entry.get("iscrowd", 0)) not in (0, 1):
        raise UserError(f"{where} in {uri}", f"iscrowd is {_short(crowd)}", "Expected 0 or 1.")
    x, y, w, h = (finite(edge, f"{where} in {uri}") for edge in box)
    return NamedBox(
        names[entry["category_id"]],
        (x, y, x + w, y + h),
        where,
        str(box),
        crowd=bool(crowd),
    )


def _id(value: object, where: str, uri: str) -> str:
    """Return an image id as text. UserError: it is neither an integer nor text."""
    if type(value) is int or (isinstance(value, str) and value):
        return str(value)
    raise UserError(
        f"{where} in {uri}",
        f"image id {_short(value)} is neither an integer nor text",
        "Write the id that the image has in `images`.",
    )


def _short(value: object, most: int = 80) -> str:
    """Show a value of the file in a message, cut to `most` characters."""
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}..."


def _check_once(values: Iterable[object], what: str, uri: str) -> None:
    """Raise UserError if a value occurs twice; `what` names the kind of value."""
    seen: set[object] = set()
    for value in values:
        if value in seen:
            raise UserError(
                f"{what} {value} in {uri}", "is used twice", "Give each entry a different value."
            )
        seen.add(value)


COCO = Format(
    name="coco",
    description="COCO (annotations/*.json)",
    looks_like=_looks_like,
    splits=_splits,
    read=_read,
    declares_classes=True,
)
