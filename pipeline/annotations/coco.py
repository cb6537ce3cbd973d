"""The COCO format: one JSON file a split, with images, categories and annotations (xywh boxes).

    annotations/instances_<split>.json | annotations/<split>.json   images: images/<split>/, <split>/, images/
    <split>/_annotations.coco.json | <split>/annotations.json       images beside the JSON file
    instances_<split>.json | <split>.json (with a folder <split>/)  as the first line, without annotations/
    result.json, labels.json, any other JSON file with COCO's lists  images anywhere, found by unique name

The classes are the categories by rising id, without gaps: the ids 1, 2, 90 become the labels 1, 2, 3.
"""

from __future__ import annotations

import posixpath
from typing import Any

from pipeline.annotations.coco_boxes import check_unique, image_id_of, load, read_boxes, shorten
from pipeline.annotations.coco_files import find_files
from pipeline.annotations.labelled import (
    Annotations,
    BadLabel,
    Format,
    NamedImage,
)
from pipeline.annotations.matching import Matcher
from pipeline.annotations.tree import Tree
from pipeline.errors import UserError


def _looks_like(tree: Tree) -> bool:
    """Whether some JSON file has one of the names above, or COCO's lists."""
    return bool(find_files(tree))


def _splits(tree: Tree) -> tuple[str, ...]:
    """List the splits by the names of the JSON files."""
    return tuple(sorted(find_files(tree)))


def _read(tree: Tree, split: str, limit: int | None) -> Annotations:
    """Read the JSON file of a split; keep the first `limit` images by URI."""
    path = find_files(tree)[split]
    uri = tree.uri(path)
    document = load(tree, path)
    names = _categories(document["categories"], uri)
    images, problems = _locate(tree, path, split, document["images"])
    sizes, unsized = _sizes(document["images"], uri)
    boxes, bad = read_boxes(document.pop("annotations"), names, images.keys(), uri)
    placed = sorted((image_uri, image_id) for image_id, image_uri in images.items())
    named = tuple(
        NamedImage(
            image_uri,
            uri,
            image_id,
            tuple(boxes.pop(image_id, ())),
            sizes.get(image_id),
            (*unsized.get(image_id, ()), *bad.pop(image_id, ())),
            unreadable=image_id in unsized,
        )
        for image_uri, image_id in placed[:limit]
    )
    check_unique(names.values(), "category name", uri)
    return Annotations(named, tuple(names.values()), tuple(problems), tuple(bad.get(None, ())))


def _categories(entries: list[dict[str, Any]], uri: str) -> dict[int, str]:
    """Map category ids to names, by rising id."""
    for entry in entries:
        name = entry.get("name")
        if type(entry.get("id")) is not int or not isinstance(name, str) or not name.strip():
            raise UserError(
                f"category {shorten(entry)} in {uri}",
                "has no integer id or no name",
                "Each category needs an integer id and a name.",
            )
    check_unique((entry["id"] for entry in entries), "category id", uri)
    return {entry["id"]: entry["name"] for entry in sorted(entries, key=lambda entry: entry["id"])}


def _locate(
    tree: Tree, path: str, split: str, entries: list[dict[str, Any]]
) -> tuple[dict[str, str], list[str]]:
    """Map each image id, as text, to the URI of the image, and return the problems.

    An image is taken from the first usual folder that has it, else from any folder by the end of its path.
    """
    beside = posixpath.dirname(path)
    folders = tuple(dict.fromkeys((f"images/{split}", split, beside, "images", "")))
    matcher = Matcher(tree=tree, uri=tree.uri(path), split=split, folders=folders)
    located: dict[str, str] = {}
    for entry in entries:
        image_id = image_id_of(entry.get("id"), f"image {shorten(entry)}", tree.uri(path))
        if image_id in located:
            raise UserError(
                f"image id {image_id} in {tree.uri(path)}",
                "is used twice",
                "Give each image a different id.",
            )
        name = entry.get("file_name") or entry.get("coco_url") or ""
        if not isinstance(name, str):
            raise UserError(
                f"image id {image_id} in {tree.uri(path)}",
                f"file_name {shorten(name)} is not text",
                "Expected the file name of the image.",
            )
        if not name:
            matcher.absent.append(f"(image id {image_id} has no file_name)")
        existing = matcher.find(name) if name else None
        located[image_id] = tree.uri(existing or name)
    matcher.require_all()
    check_unique(located.values(), "image", tree.uri(path))
    return located, matcher.problems()


def _sizes(
    entries: list[dict[str, Any]], uri: str
) -> tuple[dict[str, tuple[int, int] | None], dict[str, tuple[BadLabel]]]:
    """Map image ids, as text, to the stated sizes; and those of impossible sizes to what is wrong."""
    sizes: dict[str, tuple[int, int] | None] = {}
    bad: dict[str, tuple[BadLabel]] = {}
    for entry in entries:
        try:
            sizes[str(entry["id"])] = _size(entry, uri)
        except UserError as error:
            bad[str(entry["id"])] = (BadLabel(uri, f"image {entry['id']}", error),)
    return sizes, bad


def _size(entry: dict[str, Any], uri: str) -> tuple[int, int] | None:
    """Return the (height, width) that an entry of `images` states; None unless it states both.

    A size of 0 means that the tool did not look.
    """
    sides = [entry.get(name) for name in ("height", "width")]
    if any(side is None or side == 0 for side in sides):
        return None
    # pandas writes whole numbers of a column with gaps as 640.0.
    height, width = (int(s) if isinstance(s, float) and s.is_integer() else s for s in sides)
    if type(height) is not int or type(width) is not int or min(height, width) < 1:
        raise UserError(
            f"image {entry['id']} in {uri}",
            f"has width {shorten(width)}, height {shorten(height)}",
            "Expected integers of 1 or more. Correct them, or leave both out.",
        )
    return height, width


COCO = Format(
    name="coco",
    description="COCO (annotations/*.json)",
    looks_like=_looks_like,
    splits=_splits,
    read=_read,
    declares_classes=True,
)
