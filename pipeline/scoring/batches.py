"""Cuts candidates into batches for the network, and decodes and uploads the next batch ahead of time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from fastrcnn.upload import Uploaded, Uploads
from pipeline.proposals.reading import decode_candidates
from pipeline.runtime.prefetch import prefetch


class DecodedBatch(NamedTuple):
    """Candidates that go through the network together, decoded."""

    rows: list[dict[str, Any]]
    """Rows of CANDIDATE. If an image cannot be decoded in time, its status is no longer `ok`."""
    images: Uploaded
    """The images of the rows whose status is `ok`."""
    proposals: list[npt.NDArray[np.float32]] | None
    """(P, 4) for each of these images, xyxy in the image frame. None means that the model proposes."""


def decoded_batches(
    candidates: pa.Table,
    uploads: Uploads,
    *,
    images_per_pass: int | None,
    max_pixels: int,
    fenced: bool = False,
) -> Iterator[DecodedBatch]:
    """Cut candidates into batches and yield each one decoded. The next one is decoded meanwhile.

    Args:
        candidates: rows of CANDIDATE.
        uploads: copies the pixels to the device of the model.
        images_per_pass: candidates in each batch; None puts all of them into one.
        max_pixels: images with more pixels are not decoded.
        fenced: decode in another process, which an image can kill without harm to this one.
    """
    size = images_per_pass or max(1, candidates.num_rows)
    parts = [candidates.slice(first, size) for first in range(0, candidates.num_rows, size)]

    def decode(index: int) -> DecodedBatch:
        rows, pixels = decode_candidates(parts[index], max_pixels=max_pixels, fenced=fenced)
        encoded = [row["proposals"] for row in rows if row["status"] == "ok"]
        proposals = None
        if all(boxes is not None for boxes in encoded):
            # copy(): frombuffer gives a read-only array, and torch warns about those
            proposals = [np.frombuffer(b, np.float32).reshape(-1, 4).copy() for b in encoded]
        images = uploads.start([torch.from_numpy(array) for array in pixels])
        return DecodedBatch(rows, images, proposals)

    if len(parts) > 1:
        yield from prefetch(decode, range(len(parts)), threads=1)
    elif parts:
        yield decode(0)
