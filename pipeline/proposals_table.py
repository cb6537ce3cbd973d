"""A table of proposals, somebody's or our own cache's: image_uri and boxes (contract, section 4).

An image without a row is an error with its name, never an empty list of boxes.
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


class ProposalsError(ValueError):
    """A table has no usable proposals of an image."""


@dataclass(frozen=True, slots=True)
class ProposalsTable:
    """A table as workers hold it."""

    uri: str
    boxes: Mapping[str, Boxes]
    """Name as the table has it, full or relative to `root`, -> (P, 4) xyxy, best first."""
    root: str
    """URI with a slash at its end."""

    @classmethod
    def read(cls, uri: str, root: str) -> ProposalsTable:
        """Read a Parquet file, or a folder of them.

        Raises:
            UserError: nothing there, or a column is missing.
        """
        boxes: dict[str, Boxes] = {}
        for part in storage.list_objects(uri, suffixes=(".parquet",)):
            data = storage.read_bytes(part.uri)
            _check_columns(uri, part.uri, data)
            table = pq.read_table(pa.BufferReader(data), columns=["image_uri", "boxes"])
            own = boxes_of(table["boxes"].cast(BOXES))
            pairs = zip(table["image_uri"].to_pylist(), own, strict=True)
            boxes.update({name: rows for name, rows in pairs if rows is not None})
        return cls(uri, boxes, storage.absolute(root).rstrip("/") + "/")

    def of(self, image_uri: str, max_boxes: int) -> Boxes:
        """The best proposals of an image, (P, 4) float32 with P <= max_boxes.

        Raises:
            ProposalsError: no row, or a box that is none.
        """
        own = self.boxes.get(image_uri)
        if own is None:
            own = self.boxes.get(image_uri.removeprefix(self.root))
        if own is None:
            raise ProposalsError(f"{self.uri} has no row for {image_uri}")
        if not are_boxes(own):
            raise ProposalsError(
                f"{self.uri}: a box of {image_uri} is not finite or not x1 <= x2, y1 <= y2"
            )
        return own[:max_boxes]


def are_boxes(boxes: npt.NDArray[np.floating]) -> bool:
    """Whether rows (P, 4) are finite and have x1 <= x2, y1 <= y2."""
    return bool(np.isfinite(boxes).all() and (boxes[:, 2:] >= boxes[:, :2]).all())


def find_table(proposals: str) -> str | None:
    """What --proposals names: a table's URI where it is one, None for a proposer.

    Raises:
        UserError: neither, or a table that is not there or has other columns.
    """
    names = sorted(name for name, spec in PROPOSER_SPECS.items() if not spec.precomputed)
    if proposals in names:
        return None
    if "/" not in proposals and not proposals.endswith(".parquet"):
        raise UserError(
            f"--proposals {proposals}",
            "is neither a proposer nor the URI of a table",
            f"Give one of {', '.join(names)}, or a URI.",
        )
    parts = storage.list_objects(proposals, suffixes=(".parquet",))
    if not parts:
        raise UserError(
            f"--proposals {proposals}", "holds no Parquet file", "Name a file or a folder of them."
        )
    try:
        data = storage.read_bytes(parts[0].uri)
    except StorageError as error:
        raise UserError(f"--proposals {proposals}", str(error), "Name a readable file.") from error
    _check_columns(proposals, parts[0].uri, data)
    return proposals


def _check_columns(proposals: str, part: str, data: bytes) -> None:
    try:
        columns = pq.read_schema(io.BytesIO(data)).names
    except pa.ArrowException as error:
        raise UserError(
            f"--proposals {proposals}", f"{part}: {error}", "Name a Parquet file or folder."
        ) from error
    if not {"image_uri", "boxes"} <= set(columns):
        raise UserError(
            f"--proposals {proposals}",
            f"{part} has the columns {', '.join(columns)}",
            "A proposals table has image_uri and boxes (list of 4 floats, xyxy).",
        )


def write_part(folder: str, table: pa.Table, settings: Mapping[str, Any]) -> None:
    """Create one more Parquet file of a table of proposals; its metadata say what made them."""
    data = encode_parquet(table, metadata={b"proposals": json.dumps(settings).encode()})
    storage.create_bytes(storage.join(folder, f"part-{uuid.uuid4().hex}.parquet"), data)


def boxes_array(boxes: Sequence[Boxes | None]) -> pa.Array:
    """(P, 4) arrays, one an image, to one Arrow array; None becomes null."""
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
    """Inverse of `boxes_array`; the arrays are views."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    out: list[Boxes | None] = []
    for chunk in chunks:
        offsets = chunk.offsets.to_numpy()
        values = chunk.values.flatten().to_numpy(zero_copy_only=False).reshape(-1, 4)
        valid = chunk.is_valid().to_numpy(zero_copy_only=False)
        for index in range(len(chunk)):
            out.append(values[offsets[index] : offsets[index + 1]] if valid[index] else None)
    return out
