"""Candidates in passes through the network, the next ones decoded and uploaded while one is looked at."""

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


class Pass(NamedTuple):
    """Candidates that go through the network together."""

    rows: list[dict[str, Any]]
    """As CANDIDATE has them; one that cannot be decoded in time has another status now."""
    images: Uploaded
    """Of those whose status is `ok`."""
    proposals: list[npt.NDArray[np.float32]] | None
    """(P, 4) of the same; None: of the model's own."""


def passes(
    candidates: pa.Table,
    uploads: Uploads,
    *,
    images_per_pass: int | None,
    max_pixels: int,
    fenced: bool = False,
) -> Iterator[Pass]:
    """Cut candidates (CANDIDATE) into passes of so many images, or one of all; make each ready ahead of its
    turn where there are several."""
    size = images_per_pass or max(1, candidates.num_rows)
    cuts = [candidates.slice(first, size) for first in range(0, candidates.num_rows, size)]

    def prepare(index: int) -> Pass:
        rows, pixels = decode_candidates(cuts[index], max_pixels=max_pixels, fenced=fenced)
        boxes = [row["proposals"] for row in rows if row["status"] == "ok"]
        proposals = None
        if all(own is not None for own in boxes):
            # frombuffer alone would be read-only, which torch warns of
            proposals = [np.frombuffer(own, np.float32).reshape(-1, 4).copy() for own in boxes]
        return Pass(rows, uploads.start([torch.from_numpy(p) for p in pixels]), proposals)

    if len(cuts) > 1:
        yield from prefetch(prepare, range(len(cuts)), threads=1)
    elif cuts:
        yield prepare(0)
