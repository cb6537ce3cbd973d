"""Reads and writes suspects.parquet: the suspicious labels of a data set, ranked."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import UserError, one_line
from pipeline.results.suspicion import Suspect
from pipeline.schema import SUSPECTS, NewerFormatError, check_version, encode_parquet

NAME = "suspects.parquet"
VERSION = 1
"""Format of the table."""
_EDGES = ("x_min", "y_min", "x_max", "y_max")


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where an image is from."""

    uri: str
    annotation_uri: str
    run_id: str


def suspects_table(
    suspects: Sequence[Suspect],
    places: Sequence[Place],
    classes: Sequence[str],
    cleanlab: Sequence[float] | None,
) -> pa.Table:
    """Make the table SUSPECTS.

    Args:
        suspects: by falling score.
        places: of each image.
        classes: K names.
        cleanlab: the score of each suspect; None if it was not asked.
    """
    rows = []
    for rank, one in enumerate(suspects, 1):
        place = places[one.image]
        row = {
            "rank": rank,
            "suspect": _name(one, place.uri),
            "kind": one.kind,
            "score": one.score,
            "image_uri": place.uri,
            "label": classes[one.label - 1] if one.label else None,
            "found_label": classes[one.found_label - 1],
            "found_score": one.found_score,
            "iou": one.iou,
            "annotation_uri": place.annotation_uri,
            "run_id": place.run_id,
            "cleanlab": None if cleanlab is None else _known(cleanlab[rank - 1]),
        }
        row |= dict(zip(_EDGES, one.box or (None,) * 4, strict=True))
        row |= dict(zip((f"found_{edge}" for edge in _EDGES), one.found_box, strict=True))
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=SUSPECTS)


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value


def _name(one: Suspect, uri: str) -> str:
    """Name a suspect by what it says: kind, image, label and detection."""
    boxes = [round(edge, 1) for box in (one.box, one.found_box) if box for edge in box]
    words = [one.kind, uri, one.label, one.found_label, *boxes]
    return hashlib.sha256("\n".join(map(str, words)).encode()).hexdigest()[:12]


def encode_suspects(table: pa.Table, metadata: Mapping[str, str]) -> bytes:
    """Return the bytes of suspects.parquet."""
    whole = {"format_version": str(VERSION), **metadata}
    return encode_parquet(table, metadata={k.encode(): v.encode() for k, v in whole.items()})


def read_suspects(uri: str, flag: str = "--suspects") -> pa.Table:
    """Read the table, by rank.

    Args:
        uri: the --output of `jobs/suspects.py`, or the file in it.

    Raises:
        UserError: there is no such file, or it is no table of suspects.
    """
    place = uri if uri.endswith(".parquet") else storage.join(uri, NAME)
    with storage.driver_errors(place):
        data = storage.read_bytes(place)
    try:
        table = pq.read_table(io.BytesIO(data), page_checksum_verification=True)
        check_version(int((table.schema.metadata or {})[b"format_version"]), VERSION)
        return table.select(SUSPECTS.names).cast(SUSPECTS).sort_by("rank")
    except NewerFormatError as error:
        raise UserError(place, str(error), "Install the newer version.") from error
    except (pa.ArrowException, KeyError, ValueError, OSError) as error:
        raise UserError(
            f"{flag} {uri}",
            f"is no table of suspects ({one_line(error)})",
            "Give the --output of jobs/suspects.py.",
        ) from error
