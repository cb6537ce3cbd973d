"""The Hugging Face format: Parquet files with a column of images and a column `objects`.

    data/train-00000-of-00002.parquet   image: struct<bytes, path>   objects: struct<bbox, category>

Boxes are xywh in pixels, as COCO's. The names of the classes are in the metadata of the file (ClassLabel). An
image is a row: ``parquet://17::s3://bucket/data/train-00000-of-00002.parquet``.
The images are read behind a fence; the columns of the labels are read here, in the driver.
"""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.annotations.labelled import Annotations, Format, NamedBox, NamedImage, good_and_bad
from pipeline.annotations.names import role
from pipeline.annotations.objects_json import CATEGORIES, box_of, entries_of
from pipeline.annotations.tree import Tree
from pipeline.errors import UserError, one_line
from pipeline.storage import arrow_filesystem, driver_errors

_OBJECTS = ("objects", "annotations")
_SUFFIX = ".parquet"


def _files(tree: Tree) -> list[str]:
    """List the Parquet files whose rows are listed as files too."""
    return [path for path in tree.below("", (_SUFFIX,)) if f"{path}/0" in tree.objects]


def _looks_like(tree: Tree) -> bool:
    return bool(_files(tree))


def _split_of(path: str) -> str:
    """Return the split that a path tells: the first word of the file, or else its folder."""
    folder, _, name = path.rpartition("/")
    word = name.removesuffix(_SUFFIX).partition("-")[0]
    above = folder.rpartition("/")[2]
    return above if role(word) is None and role(above) is not None else word


def _splits(tree: Tree) -> tuple[str, ...]:
    return tuple(sorted({_split_of(path) for path in _files(tree)}))


def _read(tree: Tree, split: str, limit: int | None) -> Annotations:
    images: list[NamedImage] = []
    names: list[str] | None = None
    for path in _files(tree):
        if _split_of(path) == split:
            found, declared = _read_file(tree, path)
            images += found
            names = names or declared
    images.sort(key=lambda image: image.image_uri)
    return Annotations(
        tuple(images[:limit]), names=None if names is None else tuple(names), problems=()
    )


def _read_file(tree: Tree, path: str) -> tuple[list[NamedImage], list[str] | None]:
    """Read the labels of one file: one image for each row, and the names of the classes."""
    uri = tree.uri(path)
    with driver_errors(uri):
        filesystem, place = arrow_filesystem(uri)
        try:
            with pq.ParquetFile(filesystem.open_input_file(place)) as file:
                schema = file.schema_arrow
                column = next((name for name in _OBJECTS if name in schema.names), None)
                if column is None:
                    raise UserError(
                        uri,
                        f"has the columns {', '.join(schema.names)}, and no column objects",
                        "Expected a column objects with bbox and category.",
                    )
                names = _class_names(schema.metadata or {}, column)
                values = file.read([column])[column].to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise UserError(
                uri, f"is not readable as Parquet ({one_line(error)})", "Write it again."
            ) from error
    stem = path.removesuffix(_SUFFIX).replace("/", "-")
    return [
        _image(tree, path, uri, row, f"{stem}-{row}", value, names)
        for row, value in enumerate(values)
    ], names


def _image(
    tree: Tree,
    path: str,
    uri: str,
    row: int,
    image_id: str,
    value: Any,
    names: list[str] | None,
) -> NamedImage:
    def make(entry: tuple[Any, Any], place: str) -> NamedBox:
        return box_of(entry, f"{uri} ({place})", place, names)

    entries = [] if value is None else entries_of(value, f"{uri} (row {row})")
    items = [(f"row {row}, object {number}", entry) for number, entry in enumerate(entries, 1)]
    boxes, wrong = good_and_bad(make, items, uri)
    return NamedImage(tree.uri(f"{path}/{row}"), uri, image_id, boxes, bad=wrong)


def _class_names(metadata: dict[bytes, bytes], column: str) -> list[str] | None:
    """Return the names of the classes that `datasets` writes into a file; None if it did not."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"][column]
    except (KeyError, ValueError, TypeError):
        return None
    features = features[0] if isinstance(features, list) and features else features
    features = features.get("feature", features) if isinstance(features, dict) else {}
    for name in CATEGORIES:
        category = features.get(name)
        while isinstance(category, dict) and "names" not in category:
            category = category.get("feature")
        if isinstance(category, list) and category:
            category = category[0]
        if isinstance(category, dict) and isinstance(category.get("names"), list):
            return [str(one) for one in category["names"]]
    return None


HUGGING_FACE = Format(
    name="hugging-face",
    description="Hugging Face (Parquet files with image and objects)",
    looks_like=_looks_like,
    splits=_splits,
    read=_read,
    declares_classes=False,
)
