"""The WebDataset format: a JSON file beside each image, with the same stem, in tars or in a folder.

    train-000000.tar: 000000.jpg 000000.json 000001.jpg 000001.json ...

The JSON of an image has the boxes as `objects_json` describes. Pairs with .xml are LabelImg, pairs with .txt
are YOLO. The names of the tars tell the split, if they begin with one.
"""

from __future__ import annotations

import json
from functools import partial
from typing import Any

from pipeline.annotations.labelled import (
    Annotations,
    BadLabel,
    Format,
    NamedBox,
    NamedImage,
    good_and_bad,
)
from pipeline.annotations.names import role
from pipeline.annotations.objects_json import LISTS, box_of, entries_of
from pipeline.annotations.tree import Tree, only_image, read_many, stem_of, unique_ids
from pipeline.errors import UserError
from pipeline.storage.chains import archive_part
from pipeline.storage.uris import basename

_ALL = "all"


def _looks_like(tree: Tree) -> bool:
    """Whether every JSON file has an image with its stem beside it, and the first has a list of objects.

    Other tools, such as LabelMe, write other JSON files beside images.
    """
    files = tree.below("", (".json",))
    images = tree.images_by_stem("") if files else {}
    if not files or not all(stem_of(path) in images for path in files):
        return False
    objects = _objects(tree, files[0])
    return not isinstance(objects, UserError) and all(bbox is not None for bbox, _ in objects)


def _splits(tree: Tree) -> tuple[str, ...]:
    """List the splits that names of archives, or else of top folders, tell; `all` if they tell none."""
    return tuple(sorted({_split_of(tree, path) for path in tree.below("", (".json",))}))


def _split_of(tree: Tree, path: str) -> str:
    archive = archive_part(tree.uri(path))
    packed = archive != tree.uri(path)
    words = [basename(archive)] if packed else []
    words += [path.partition("/")[0]] if "/" in path else []
    for word in words:
        start = word.replace("_", "-").partition("-")[0].partition(".")[0]
        if role(start) is not None:
            return start
    return _ALL


def _read(tree: Tree, split: str, limit: int | None) -> Annotations:
    images = tree.images_by_stem("")
    paths = [p for p in tree.below("", (".json",)) if _split_of(tree, p) == split][:limit]
    read = read_many(tree, partial(_objects, tree), paths)
    pictures = [only_image(tree, images[stem_of(path)]) for path in paths]
    named = [
        _image(tree.uri(picture), tree.uri(path), image_id, objects)
        for picture, path, image_id, objects in zip(
            pictures, paths, unique_ids(pictures), read, strict=True
        )
    ]
    named.sort(key=lambda image: image.image_uri)
    return Annotations(tuple(named), names=None, problems=())


def _objects(tree: Tree, path: str) -> list[tuple[Any, Any]] | UserError:
    """Return (bbox, category) of each object of one JSON file, or what is wrong with the file."""
    uri = tree.uri(path)
    try:
        document = json.loads(tree.read_text(path))
        value = document
        if isinstance(document, dict):
            value = next((document[name] for name in LISTS if name in document), document)
        return entries_of(value, uri)
    except (ValueError, RecursionError) as error:
        return UserError(uri, f"is not readable as JSON ({error})", "Write it again.")
    except UserError as error:
        return error


def _image(
    image_uri: str, uri: str, image_id: str, objects: list[tuple[Any, Any]] | UserError
) -> NamedImage:
    if isinstance(objects, UserError):
        bad = (BadLabel(uri, "", objects),)
        return NamedImage(image_uri, uri, image_id, (), bad=bad, unreadable=True)

    def make(entry: tuple[Any, Any], place: str) -> NamedBox:
        return box_of(entry, f"{uri} ({place})", place, None)

    items = [(f"object {number}", entry) for number, entry in enumerate(objects, 1)]
    boxes, wrong = good_and_bad(make, items, uri)
    return NamedImage(image_uri, uri, image_id, boxes, bad=wrong)


WEBDATASET = Format(
    name="webdataset",
    description="WebDataset (a JSON file beside each image, in tars)",
    looks_like=_looks_like,
    splits=_splits,
    read=_read,
    declares_classes=False,
)
