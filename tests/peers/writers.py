"""Writes packed data sets with other tools' libraries. It runs in `.venv-peers` and imports nothing of this
project.

    python writers.py KIND FOLDER

Each data set has three pictures of 40 x 30 in the split "train": with two objects, with one, and without.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import Any

from PIL import Image

NAMES = ["cat", "dog"]
OBJECTS: list[list[tuple[list[float], int]]] = [
    [([10.0, 7.0, 20.0, 15.0], 1), ([0.0, 0.5, 5.0, 5.0], 0)],
    [([1.0, 2.0, 10.0, 10.0], 1)],
    [],
]
"""For each picture its objects: bbox, as x, y, width, height, and category."""


def picture(number: int) -> Image.Image:
    """Draw a picture of one color."""
    return Image.new("RGB", (40, 30), (number * 50, 100, 0))


def encoded(number: int, form: str) -> bytes:
    """Encode it as JPEG or PNG."""
    file = io.BytesIO()
    picture(number).save(file, form)
    return file.getvalue()


def lists(number: int, names: bool) -> dict[str, Any]:
    """Give the objects of a picture as lists of one length, with names or numbers of categories."""
    objects = OBJECTS[number]
    return {
        "bbox": [bbox for bbox, _ in objects],
        "category": [NAMES[k] if names else k for _, k in objects],
    }


def webdataset_shards(folder: str) -> None:
    """Write JPEG and JSON, two samples a tar."""
    import webdataset

    with webdataset.ShardWriter(f"{folder}/train-%06d.tar", maxcount=2) as shards:
        for number in range(3):
            label = {"objects": lists(number, names=True)}
            sample = {"__key__": f"{number:06d}", "jpg": encoded(number, "JPEG"), "json": label}
            shards.write(sample)


def webdataset_encoders(folder: str) -> None:
    """Write samples in folders, of which the library encodes the pictures."""
    import webdataset

    with webdataset.TarWriter(f"{folder}/train-0.tar") as tar:
        for number in range(3):
            entries = [{"bbox": bbox, "category": NAMES[k], "id": 1} for bbox, k in OBJECTS[number]]
            key = f"camera {number}/00.17"
            tar.write({"__key__": key, "png": picture(number), "json": {"annotations": entries}})


def datasets_lists(folder: str) -> None:
    """Write `objects` as lists of one length, as on the Hugging Face Hub."""
    from datasets import ClassLabel, Features, List, Value
    from datasets import Image as Picture

    objects = {"bbox": List(List(Value("float32"), 4)), "category": List(ClassLabel(names=NAMES))}
    rows = [lists(number, names=False) for number in range(3)]
    _hugging_face(folder, Features({"image": Picture(), "objects": objects}), rows)


def datasets_entries(folder: str) -> None:
    """Write `objects` as a list of objects."""
    from datasets import ClassLabel, Features, List, Value
    from datasets import Image as Picture

    entry = {"bbox": List(Value("float64"), 4), "category": ClassLabel(names=NAMES)}
    rows = [[{"bbox": bbox, "category": k} for bbox, k in OBJECTS[n]] for n in range(3)]
    _hugging_face(folder, Features({"image": Picture(), "objects": List(entry)}), rows)


def _hugging_face(folder: str, features: Any, objects: list[Any]) -> None:
    from datasets import Dataset

    images = [{"bytes": encoded(number, "PNG"), "path": None} for number in range(3)]
    data = Dataset.from_dict({"image": images, "objects": objects}, features=features)
    for part in range(2):
        data.shard(2, part).to_parquet(f"{folder}/data/train-{part:05d}-of-00002.parquet")


WRITERS: dict[str, Callable[[str], None]] = {
    function.__name__: function
    for function in (webdataset_shards, webdataset_encoders, datasets_lists, datasets_entries)
}

if __name__ == "__main__":
    WRITERS[sys.argv[1]](sys.argv[2])
