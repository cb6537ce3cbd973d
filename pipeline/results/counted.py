"""Reads what a person counted in images: tables of counts, or folders of labelled images."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.annotations import LabelledImage, read_labelled_images, splits
from pipeline.annotations.rules import BadLabelsError, NoClassError
from pipeline.errors import UserError, one_line
from pipeline.results.image_matching import find_matches

_COLUMNS = ("image_uri", "label", "count")
_TABLES = (".csv", ".parquet")


@dataclass(frozen=True, slots=True)
class CountedImage:
    """The objects of one image by class. A class that is not named has none."""

    uri: str
    source: str
    """The file or folder that says so."""
    objects: Mapping[str, int]


def read_counts(
    uris: Sequence[str], images_at: str | None, known: Sequence[str]
) -> list[CountedImage]:
    """Read all counts. An image that several of them count alike is returned once.

    Args:
        uris: tables (.csv, .parquet), or folders or files of labels.
        images_at: the folder of the images, if the labels of a folder lie apart from them.
        known: the classes of the detector.

    Raises:
        UserError: a table or data set cannot be read, a class is unknown, a count is no count, or an image
            has two different counts.
    """
    counted: dict[str, CountedImage] = {}
    for uri in uris:
        is_table = uri.lower().endswith(_TABLES)
        for image in _read_table(uri) if is_table else _read_labels(uri, images_at, known):
            for name in image.objects:
                if name not in known:
                    raise UserError(
                        f"--counts {uri}",
                        f"counts {name!r} in {image.uri}, which is no class of the detector",
                        f"Expected one of: {', '.join(known)}.",
                    )
            other = counted.setdefault(image.uri, image)
            if +Counter(other.objects) != +Counter(image.objects):
                raise UserError(
                    image.uri,
                    f"has {_words(other)} in {other.source} and {_words(image)} in {uri}",
                    "Keep the right one.",
                )
    return list(counted.values())


def _words(image: CountedImage) -> str:
    return ", ".join(f"{count} {name}" for name, count in image.objects.items()) or "no object"


def _read_table(uri: str) -> Iterator[CountedImage]:
    with storage.driver_errors(uri):
        data = storage.read_bytes(uri)
    try:
        if uri.lower().endswith(".parquet"):
            table = pq.read_table(io.BytesIO(data))
        else:
            # Only an empty cell is null: a class may have the name "NA" or "null".
            texts = pa_csv.ConvertOptions(
                column_types=dict.fromkeys(_COLUMNS, pa.string()),
                strings_can_be_null=True,
                null_values=[""],
            )
            lines = pa_csv.ParseOptions(newlines_in_values=True)
            table = pa_csv.read_csv(io.BytesIO(data), convert_options=texts, parse_options=lines)
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"--counts {uri}",
            f"cannot be read ({one_line(error)})",
            "Give a table with the columns image_uri, label and count.",
        ) from error
    twice = [name for name in _COLUMNS if table.column_names.count(name) > 1]
    if twice:
        raise UserError(
            f"--counts {uri}", f"has several columns {twice[0]}", "Remove all but one of them."
        )
    missing = [name for name in _COLUMNS if name not in table.column_names]
    if missing:
        raise UserError(
            f"--counts {uri}",
            f"has no column {missing[0]}; its columns are {', '.join(table.column_names)}",
            "Give the columns image_uri, label and count.",
        )
    objects: dict[str, dict[str, int]] = {}
    for number, row in enumerate(table.select(_COLUMNS).to_pylist(), 1):
        where = f"row {number} of {uri}"
        image, label = row["image_uri"], row["label"]
        if not image:
            raise UserError(where, "names no image", "Write the image in the column image_uri.")
        of_image = objects.setdefault(str(image), {})
        count = _count(row["count"], where)
        if not label:
            if count:
                raise UserError(
                    where,
                    f"counts {count} objects without a label",
                    "Write the class in the column label. Only a row with count 0 needs none.",
                )
        elif str(label) in of_image:
            raise UserError(where, f"counts {label!r} in {image} again", "Write one row for each.")
        else:
            of_image[str(label)] = count
    for image, of_image in objects.items():
        yield CountedImage(image, uri, of_image)


def _count(value: object, where: str) -> int:
    try:
        number = float(str(value))
    except ValueError:
        number = -1.0
    if not (number >= 0 and number.is_integer()):
        raise UserError(
            where,
            f"the count is {value!r}, expected an integer from 0 on",
            "Write 0 for an image without objects.",
        )
    return int(number)


def _read_labels(uri: str, images_at: str | None, known: Sequence[str]) -> Iterator[CountedImage]:
    for split in splits(uri, images_at):
        try:
            labelled = read_labelled_images(uri, split, images_at=images_at)
        except NoClassError:  # a person saw no object in any image: there is no class to mistake
            labelled = read_labelled_images(uri, split, images_at=images_at, classes=known)
        except BadLabelsError as error:
            what, why, _ = error.args
            raise UserError(what, why, "Correct the labels: every object must count.") from error
        for image in labelled.images:
            yield CountedImage(image.image_uri, uri, _objects(image, labelled.classes))


def _objects(image: LabelledImage, classes: Sequence[str]) -> Counter[str]:
    if image.crowd.any():
        raise UserError(
            f"{image.annotation_uri}: {image.image_uri}",
            "has a box around many objects (iscrowd)",
            "Draw one box for each object, or give a table of counts.",
        )
    return Counter(classes[label - 1] for label in image.gt_labels.tolist())


def counts_of(
    images: Sequence[str], counted: Sequence[CountedImage], classes: Sequence[str], sample: str
) -> npt.NDArray[np.float64]:
    """Return the counts (n, K) of the drawn images.

    Images are matched as labelled images are (`pipeline.results.image_matching`).

    Raises:
        UserError: a drawn image has no count. It is not taken for an image without objects.
    """
    distinct = list(dict.fromkeys(images))
    matches = find_matches(distinct, [image.uri for image in counted])
    missing = [uri for uri, match in zip(distinct, matches, strict=True) if match is None]
    if missing:
        raise UserError(
            f"--counts: {missing[0]}",
            f"has no count; {len(missing)} of the {len(distinct)} images of {sample} have none",
            "Count them too; for an image without objects, write a row with count 0. Images that were left"
            " out would bias the total.",
        )
    objects = {
        uri: [counted[match].objects.get(name, 0) for name in classes]
        for uri, match in zip(distinct, matches, strict=True)
        if match is not None
    }
    return np.array([objects[uri] for uri in images], np.float64)
