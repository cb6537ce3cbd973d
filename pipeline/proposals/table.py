"""Reads and writes tables of proposals, with the columns image_uri and boxes (contract, section 4).

A table comes from the user or from the cache of this package. An image without a row is an error that names
the image, never an empty list of boxes.

Legend: P proposals of one image. Boxes are xyxy, absolute pixels in the image frame.
"""

from __future__ import annotations

import io
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from fastrcnn.config import PROPOSER_SPECS
from pipeline import storage
from pipeline.errors import UserError
from pipeline.schema import BOXES, encode_parquet
from pipeline.storage import StorageError

Boxes = npt.NDArray[np.float32]
"""(P, 4) float32, xyxy in the image frame, best first."""


class ProposalsError(ValueError):
    """A table has no valid proposals for an image."""


@dataclass(frozen=True, slots=True)
class ProposalsTable:
    """A table of proposals in memory."""

    uri: str
    boxes: Mapping[str, Boxes]
    """The name of the image in the table, full or relative to one of `roots` -> its boxes."""
    roots: tuple[str, ...]
    """URIs with a slash at their end."""

    @classmethod
    def read(cls, uri: str, root: str, *other_roots: str) -> ProposalsTable:
        """Read a Parquet file, or all Parquet files of a folder.

        Args:
            uri: the file or the folder.
            root: URI to which relative names in the table are relative.
            other_roots: more such URIs, if there are several data sets.

        Raises:
            UserError: `uri` names no object, or a file lacks a column.
        """
        boxes: dict[str, Boxes] = {}
        for part in storage.list_objects(uri, suffixes=(".parquet",)):
            data = storage.read_bytes(part.uri)
            _check_columns(uri, part.uri, data)
            table = pq.read_table(pa.BufferReader(data), columns=["image_uri", "boxes"])
            pairs = zip(
                table["image_uri"].to_pylist(), boxes_of(table["boxes"].cast(BOXES)), strict=True
            )
            boxes.update({name: rows for name, rows in pairs if rows is not None})
        return cls(
            uri,
            boxes,
            tuple(f"{storage.absolute(top).rstrip('/')}/" for top in (root, *other_roots)),
        )

    def of(self, image_uri: str, max_boxes: int | None) -> Boxes:
        """Return the best proposals of an image, (P, 4) float32 with P <= max_boxes. None: all of them.

        Raises:
            ProposalsError: the image has no row, or one of its boxes is invalid.
        """
        boxes = self.boxes.get(image_uri)
        if boxes is None:
            boxes = self.boxes.get(self.relative(image_uri))
        if boxes is None:
            raise ProposalsError(f"{self.uri} has no row for {image_uri}")
        if not are_boxes(boxes):
            raise ProposalsError(
                f"{self.uri}: a box of {image_uri} is not finite or not x1 <= x2, y1 <= y2"
            )
        return boxes[:max_boxes]

    def relative(self, image_uri: str) -> str:
        """Return the shortest name of an image: relative to the innermost of `roots` that it lies in."""
        return min(
            (image_uri.removeprefix(root) for root in self.roots), key=len, default=image_uri
        )

    def check_unambiguous(self, image_uris: Sequence[str]) -> None:
        """Raise ProposalsError if two of these images would take their boxes from one relative name."""
        taken: dict[str, str] = {}
        for uri in image_uris:
            name = self.relative(uri)
            if uri not in self.boxes and taken.setdefault(name, uri) != uri and name in self.boxes:
                raise ProposalsError(
                    f"{self.uri}: the row {name} may be of {taken[name]} or of {uri};"
                    " write the whole URI of each image"
                )


def are_boxes(boxes: npt.NDArray[np.floating]) -> bool:
    """Whether all boxes (P, 4) are finite and have x1 <= x2, y1 <= y2."""
    return bool(np.isfinite(boxes).all() and (boxes[:, 2:] >= boxes[:, :2]).all())


def find_table(proposals: str) -> str | None:
    """Return the value of --proposals if it is the URI of a table; None if it is the name of a proposer.

    Raises:
        UserError: the value is neither, or the table does not exist or has other columns.
    """
    names = sorted(name for name, spec in PROPOSER_SPECS.items() if not spec.precomputed)
    if proposals in names:
        return None
    if "/" not in proposals and not proposals.endswith(".parquet"):
        raise UserError(
            f"--proposals {proposals}",
            "is neither a proposer nor the URI of a table",
            f"Expected one of {', '.join(names)}, or a URI.",
        )
    parts = storage.list_objects(proposals, suffixes=(".parquet",))
    if not parts:
        raise UserError(
            f"--proposals {proposals}",
            "holds no Parquet file",
            "Give a Parquet file, or a folder of Parquet files.",
        )
    try:
        data = storage.read_bytes(parts[0].uri)
    except StorageError as error:
        raise UserError(
            f"--proposals {proposals}",
            f"cannot be read ({error})",
            "Give a readable file, or check the permissions.",
        ) from error
    _check_columns(proposals, parts[0].uri, data)
    return proposals


def _check_columns(proposals: str, part: str, data: bytes) -> None:
    try:
        columns = pq.read_schema(io.BytesIO(data)).names
    except pa.ArrowException as error:
        raise UserError(
            f"--proposals {proposals}",
            f"{part} is not a readable Parquet file ({error})",
            "Give a Parquet file, or a folder of Parquet files.",
        ) from error
    if not {"image_uri", "boxes"} <= set(columns):
        raise UserError(
            f"--proposals {proposals}",
            f"{part} has the columns {', '.join(columns)}",
            "Expected the columns image_uri and boxes (a list of boxes, each 4 floats, xyxy).",
        )


def write_part(folder: str, table: pa.Table, settings: Mapping[str, Any]) -> None:
    """Write one more Parquet file of a table of proposals.

    Args:
        folder: URI of the table.
        table: the rows.
        settings: what made the proposals; stored in the metadata of the file.
    """
    data = encode_parquet(table, metadata={b"proposals": json.dumps(settings).encode()})
    storage.create_bytes(storage.join(folder, f"part-{uuid.uuid4().hex}.parquet"), data)


def boxes_array(boxes: Sequence[Boxes | None]) -> pa.Array:
    """Turn arrays (P, 4), one an image, into one Arrow array; None becomes null."""
    counts = [0 if b is None else len(b) for b in boxes]
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
    rows = [b.reshape(-1, 4) for b in boxes if b is not None and len(b)]
    flat = np.concatenate(rows) if rows else np.zeros((0, 4), np.float32)
    values = pa.FixedSizeListArray.from_arrays(
        pa.array(flat.ravel(), pa.float32()), type=BOXES.value_type
    )
    mask = pa.array([b is None for b in boxes], pa.bool_())
    return pa.ListArray.from_arrays(offsets, values, type=BOXES, mask=mask)


def boxes_of(column: pa.ChunkedArray | pa.Array) -> list[Boxes | None]:
    """Turn a column BOXES into arrays (P, 4), the inverse of `boxes_array`. The arrays are views."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    out: list[Boxes | None] = []
    for chunk in chunks:
        offsets = chunk.offsets.to_numpy()
        values = chunk.values.flatten().to_numpy(zero_copy_only=False).reshape(-1, 4)
        valid = chunk.is_valid().to_numpy(zero_copy_only=False)
        for index in range(len(chunk)):
            out.append(values[offsets[index] : offsets[index + 1]] if valid[index] else None)
    return out
