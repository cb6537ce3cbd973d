"""COCO's JSON: images, annotations with xywh boxes, categories.

    annotations/instances_<split>.json | annotations/<split>.json   in images/<split>/, <split>/, images/
    <split>/_annotations.coco.json | <split>/annotations.json       images beside it
    instances_<split>.json | <split>.json (with a folder <split>/)  the same, without the folder annotations/

Classes are the categories by rising id, gaps closed: ids such as 1, 2, 90 become labels 1, 2, 3.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterable
from typing import Any

from pipeline.annotations.labelled import Annotations, Format, NamedBox, NamedImage, finite, some
from pipeline.annotations.tree import Tree
from pipeline.errors import UserError

# Best first, where two files are for one split.
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
    """Whether there is a JSON file with one of the names above."""
    return bool(_files(tree))


def _splits(tree: Tree) -> tuple[str, ...]:
    """The splits that the names of the JSON files give."""
    return tuple(sorted(_files(tree)))


def _read(tree: Tree, split: str, limit: int | None) -> Annotations:
    """The images of one JSON file, the first `limit` by URI."""
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
    """Split -> path of its JSON."""
    tops = {path.partition("/")[0] for path in tree.paths if "/" in path}
    ranked: dict[str, tuple[int, str]] = {}
    for path in tree.below("", (".json",)):
        matches = ((rank, name.fullmatch(path)) for rank, name in enumerate(_NAMES))
        rank, match = next(((r, m) for r, m in matches if m), (0, None))
        # Any other file may be called x.json: beside a folder x it is taken for its annotations.
        if match and (rank < len(_NAMES) - 1 or match["split"] in tops):
            ranked[match["split"]] = min((rank, path), ranked.get(match["split"], (rank, path)))
    return {split: path for split, (_, path) in ranked.items()}


def _load(tree: Tree, path: str) -> dict[str, list[Any]]:
    uri = tree.uri(path)
    try:
        document = json.loads(tree.read(path))
    except (ValueError, RecursionError) as error:  # JSON's and Unicode's errors; a million brackets
        raise UserError(uri, f"not readable as JSON ({error})", "Write it anew.") from error
    for section in ("images", "annotations", "categories"):
        entries = document.get(section) if isinstance(document, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise UserError(uri, f"has no list of {section}", "It must be COCO's instances format.")
    sections: dict[str, list[Any]] = document
    return sections


def _categories(entries: list[dict[str, Any]], uri: str) -> dict[int, str]:
    """Category id -> name, by rising id."""
    for entry in entries:
        name = entry.get("name")
        if type(entry.get("id")) is not int or not isinstance(name, str) or not name.strip():
            raise UserError(
                f"category {_short(entry)} in {uri}",
                "needs an integer id and a name",
                "Write both.",
            )
    _check_once((entry["id"] for entry in entries), "category id", uri)
    return {entry["id"]: entry["name"] for entry in sorted(entries, key=lambda entry: entry["id"])}


def _locate(tree: Tree, path: str, split: str, entries: list[dict[str, Any]]) -> dict[str, str]:
    """Image id as text -> URI of the image, in the first of the usual folders that has it."""
    beside = posixpath.dirname(path)
    folders = list(dict.fromkeys((f"images/{split}", split, beside, "images", "")))
    located: dict[str, str] = {}
    absent = []
    for entry in entries:
        image_id = _id(entry.get("id"), f"image {_short(entry)}", tree.uri(path))
        if image_id in located:
            raise UserError(
                f"image id {image_id} in {tree.uri(path)}", "is there twice", "Give each its own."
            )
        name = entry.get("file_name", "")
        if not isinstance(name, str):
            raise UserError(
                f"image id {image_id} in {tree.uri(path)}",
                f"file_name {_short(name)} is no text",
                "Write the image's name.",
            )
        name = name.replace("\\", "/")
        candidates = (posixpath.normpath(posixpath.join(folder, name)) for folder in folders)
        found = next((candidate for candidate in candidates if candidate in tree.known), None)
        if found is None:
            absent.append(name or f"(image id {image_id} has no file_name)")
        located[image_id] = tree.uri(found or name)
    if absent:
        where = ", ".join(f"{folder}/" for folder in folders if folder)
        raise UserError(
            tree.uri(path),
            f"names images that are not there: {some(absent)}",
            f"Looked in {where}.",
        )
    _check_once(located.values(), "image", tree.uri(path))
    return located


def _size(entry: dict[str, Any], uri: str) -> tuple[int, int] | None:
    """(height, width) of an entry of images, where it says both."""
    sides = [entry.get(name) for name in ("height", "width")]
    if any(side is None for side in sides):
        return None
    height, width = sides
    if type(height) is not int or type(width) is not int or min(height, width) < 1:
        raise UserError(
            f"image {entry['id']} in {uri}",
            f"width {_short(width)}, height {_short(height)} are no size",
            "Write whole pixels, or leave both out.",
        )
    return height, width


def _boxes(
    entries: list[dict[str, Any]], names: dict[int, str], images: set[str], uri: str
) -> dict[str, list[NamedBox]]:
    """Image id as text -> its boxes, xyxy."""
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
                f"They are {some([str(known) for known in names])}.",
            )
        boxes.setdefault(image_id, []).append(_box(entry, names, where, uri))
    if orphans:
        raise UserError(
            uri,
            f"annotations of images that it does not list: {some(orphans)}",
            "List the images, or take the annotations out.",
        )
    return boxes


def _box(entry: dict[str, Any], names: dict[int, str], where: str, uri: str) -> NamedBox:
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4:
        raise UserError(
            f"{where} in {uri}",
            f"bbox {_short(box)} is not [x, y, w, h]",
            "Write the box that bounds its segmentation, or take it out.",
        )
    if any(isinstance(edge, str) for edge in box):
        raise UserError(f"{where} in {uri}", f"bbox {_short(box)} holds text", "Write numbers.")
    if (crowd := entry.get("iscrowd", 0)) not in (0, 1):
        raise UserError(f"{where} in {uri}", f"iscrowd is {_short(crowd)}", "Write 0 or 1.")
    x, y, w, h = (finite(edge, f"{where} in {uri}") for edge in box)
    return NamedBox(
        names[entry["category_id"]],
        (x, y, x + w, y + h),
        where,
        str(box),
        crowd=bool(crowd),
    )


def _id(value: object, where: str, uri: str) -> str:
    if type(value) is int or (isinstance(value, str) and value):
        return str(value)
    raise UserError(
        f"{where} in {uri}",
        f"image id {_short(value)} is no integer or text",
        "Write the id that images has.",
    )


def _short(value: object, most: int = 80) -> str:
    """A value of the file for a message, not longer than a line."""
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}..."


def _check_once(values: Iterable[object], what: str, uri: str) -> None:
    seen: set[object] = set()
    for value in values:
        if value in seen:
            raise UserError(f"{what} {value} in {uri}", "is there twice", "Give each its own.")
        seen.add(value)


COCO = Format(
    name="coco",
    description="COCO (annotations/*.json)",
    looks_like=_looks_like,
    splits=_splits,
    read=_read,
    declares_classes=True,
)
