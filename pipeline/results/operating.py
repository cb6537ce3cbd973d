"""Writes the operating points of an evaluation, its confusion and its matched boxes, as Parquet files."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from fastrcnn.metrics import KINDS, Matches, OperatingPoint, best_thresholds, confusion, outcomes
from pipeline import storage
from pipeline.schema import CONFUSION, MATCHES, OPERATING_POINTS, encode_parquet

BACKGROUND = "background"
"""The class of what is no object, in the confusion."""
IMAGES_AT_ONCE = 5_000
"""Images whose boxes are in memory as a table at the same time."""


def write_tables(
    output: str,
    points: tuple[OperatingPoint, ...],
    matches: Matches,
    uris: Sequence[str],
    classes: Sequence[str],
    metadata: Mapping[bytes, bytes],
) -> tuple[str, ...]:
    """Write operating_points.parquet, confusion.parquet and matches.parquet.

    Args:
        output: the folder.
        points: of all classes.
        matches: of all images.
        uris: the image_uri of each image.
        classes: K names.
        metadata: of each file.

    Returns:
        The names of the files.
    """
    thresholds = best_thresholds(points)
    counts = np.zeros((len(classes) + 1, len(classes) + 1), np.int64)
    with tempfile.TemporaryDirectory(prefix="fastrcnn-") as folder:
        path = Path(folder) / "matches.parquet"
        schema = MATCHES.with_metadata(dict(metadata))
        with pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True) as writer:
            for first in range(0, len(uris), IMAGES_AT_ONCE):
                part = matches.of_images(first, first + IMAGES_AT_ONCE)
                counts += confusion(part, thresholds, len(classes))
                writer.write_table(matches_table(part, thresholds, uris, classes).cast(schema))
        storage.upload_file(path, storage.join(output, "matches.parquet"))
    for name, table in (
        ("operating_points.parquet", points_table(points, classes)),
        ("confusion.parquet", confusion_table(counts, classes)),
    ):
        storage.write_bytes(storage.join(output, name), encode_parquet(table, metadata=metadata))
    return "operating_points.parquet", "confusion.parquet", "matches.parquet"


def points_table(points: Sequence[OperatingPoint], classes: Sequence[str]) -> pa.Table:
    """Make the table OPERATING_POINTS. Numbers that do not exist are null."""
    return pa.Table.from_pylist(
        [
            {
                "label": classes[point.label - 1],
                "kind": point.kind,
                "threshold": _or_none(point.threshold),
                "precision": _or_none(point.precision),
                "recall": _or_none(point.recall),
                "f1": _or_none(point.f1),
            }
            for point in points
        ],
        schema=OPERATING_POINTS,
    )


def confusion_table(counts: npt.NDArray[np.int64], classes: Sequence[str]) -> pa.Table:
    """Make the table CONFUSION of counts (K + 1, K + 1), without pairs that do not occur."""
    names = np.array([BACKGROUND, *classes], object)
    rows, columns = np.nonzero(counts)
    order = np.argsort(rows == 0, kind="stable")  # the background last
    rows, columns = rows[order], columns[order]
    return pa.table(
        [names[rows], names[columns], counts[rows, columns]],
        schema=CONFUSION,
    )


def matches_table(
    matches: Matches,
    thresholds: npt.NDArray[np.float64],
    uris: Sequence[str],
    classes: Sequence[str],
) -> pa.Table:
    """Make the table MATCHES of some images."""
    found = outcomes(matches, thresholds)
    names = np.array([None, *classes], object)
    columns = {
        "image_uri": np.array(uris, object)[found.images],
        "label": names[found.labels],
        "score": pa.array(found.scores.astype(np.float32), from_pandas=True),
        **dict(zip(("x_min", "y_min", "x_max", "y_max"), found.boxes.T, strict=True)),
        "kind": np.array(KINDS, object)[found.kinds],
        "iou": pa.array(found.ious.astype(np.float32), from_pandas=True),
        "gt_label": names[found.gt_labels],
        "above": found.above,
    }
    arrays = [
        pa.array(columns[f.name]).cast(f.type)
        if isinstance(columns[f.name], pa.Array)
        else pa.array(columns[f.name], f.type)
        for f in MATCHES
    ]
    return pa.Table.from_arrays(arrays, schema=MATCHES)


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
