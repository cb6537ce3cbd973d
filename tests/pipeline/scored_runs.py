"""Hand-made scoring runs, for the tests of what reads them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from pipeline import storage
from pipeline.schema import SCORED, encode_parquet, scored_metadata

CLASSES = ("cat", "dog")
START = datetime(2026, 1, 1, tzinfo=UTC)

Box = tuple[float, float, float, float]
Found = tuple[str, float, Box]


def image(
    uri: str,
    *found: Found,
    status: str = "ok",
    error: str | None = None,
    hours: float = 0,
    size: tuple[int, int] = (480, 640),
    etag: str | None = "e1",
    classes: Sequence[str] = CLASSES,
    generation: int | None = None,
) -> dict[str, Any]:
    """A row of scored/, made `hours` after START, with boxes by falling score."""
    boxes = [
        {"label": label, "label_id": classes.index(label) + 1, "score": score}
        | dict(zip(("x_min", "y_min", "x_max", "y_max"), box, strict=True))
        for label, score, box in sorted(found, key=lambda one: -one[1])
    ]
    ok = status == "ok"
    return dict.fromkeys(SCORED.names) | {
        "image_uri": uri,
        "etag": etag,
        "size_bytes": 1000,
        "width": size[1] if ok else None,
        "height": size[0] if ok else None,
        "status": status,
        "error": error,
        "scored_at": START + timedelta(hours=hours),
        "num_proposals": 30 if ok else None,
        "num_detections": len(boxes) if ok else None,
        "detections": boxes if ok else None,
        "generation": generation,
    }


def write_shard(
    output: str,
    *rows: dict[str, Any],
    run_id: str = "r1",
    shard: int = 0,
    model_id: str = "m1",
    classes: Sequence[str] = CLASSES,
    columns: Sequence[str] = SCORED.names,
    format_version: int | None = None,
) -> str:
    """Put a shard of a run under `output`; its URI."""
    marked = [row | {"run_id": run_id, "model_id": model_id} for row in rows]
    table = pa.Table.from_pylist(marked, schema=SCORED).select(columns)
    uri = storage.join(output, "scored", run_id, f"{shard:08d}.parquet")
    metadata = scored_metadata(classes, model_id, format_version=format_version)
    storage.write_bytes(uri, encode_parquet(table, metadata=metadata))
    return uri
