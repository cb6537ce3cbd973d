"""Cuts candidates into batches of equal canvas, and decodes the next batch ahead of time."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from fastrcnn.gpu_errors import lacks_memory
from fastrcnn.upload import UploadedImages, Uploads
from pipeline.images import Truncated
from pipeline.images.samples import NEUTRAL, SampleRules
from pipeline.proposals.candidate import decode_candidates
from pipeline.runtime.prefetch import prefetch

Canvas = Callable[[tuple[int, int]], Hashable]
"""From the (height, width) of an image to what it has in common with the images that may share its pass."""


class DecodedBatch(NamedTuple):
    """Candidates that go through the network together, decoded."""

    indices: list[int]
    """Rows of the table that the batch was cut from."""
    rows: list[dict[str, Any]]
    """Rows of CANDIDATE. If an image cannot be decoded in time, its status is no longer `ok`."""
    images: UploadedImages
    """The images of the rows whose status is `ok`."""
    proposals: list[npt.NDArray[np.float32]] | None
    """(P, 4) for each of these images, xyxy in the image frame. None means that the model proposes."""


def decoded_batches(
    candidates: pa.Table,
    uploads: Uploads,
    *,
    images_per_pass: int | None,
    max_pixels: int,
    canvas: Canvas = lambda size: (),
    rules: SampleRules = NEUTRAL,
    truncated: Truncated = "warn",
    fenced: bool = False,
    threads: int = 1,
) -> Iterator[DecodedBatch]:
    """Cut candidates into batches and yield each one decoded. The next one is decoded meanwhile.

    The images of a batch have the same canvas, so that one pass takes them all. Batches come in the order of
    their first candidates, and each candidate is in one batch.

    Args:
        candidates: rows of CANDIDATE.
        uploads: copies the pixels to the device of the model.
        images_per_pass: most candidates of a batch. None puts all of one canvas into one.
        canvas: images of equal canvas may share a batch. By default all may.
        max_pixels: images with more pixels are not decoded.
        rules: how samples become pixels.
        truncated: what to do with a JPEG that lacks its end.
        fenced: decode in another process, which an image can kill without harm to this one.
        threads: images that are decoded at the same time.
    """
    parts = _parts(candidates, images_per_pass, canvas)

    def decode(index: int) -> DecodedBatch:
        rows, pixels = decode_candidates(
            candidates.take(parts[index]),
            max_pixels=max_pixels,
            rules=rules,
            truncated=truncated,
            fenced=fenced,
            threads=threads,
        )
        encoded = [row["proposals"] for row in rows if row["status"] == "ok"]
        proposals = None
        if all(boxes is not None for boxes in encoded):
            # copy(): frombuffer gives a read-only array, and torch warns about those
            proposals = [np.frombuffer(b, np.float32).reshape(-1, 4).copy() for b in encoded]
        images = _uploaded(uploads, [torch.from_numpy(array) for array in pixels])
        return DecodedBatch(parts[index], rows, images, proposals)

    if len(parts) > 1:
        yield from prefetch(decode, range(len(parts)), threads=1)
    elif parts:
        yield decode(0)


def _parts(candidates: pa.Table, images_per_pass: int | None, canvas: Canvas) -> list[list[int]]:
    """Give the indices of the candidates of each batch."""
    sizes = zip(candidates["height"].to_pylist(), candidates["width"].to_pylist(), strict=True)
    of_canvas: dict[Hashable, list[int]] = {}
    for index, (height, width) in enumerate(sizes):
        # Without a size, the image could not be read, or only its decoder can tell. `detect` groups again.
        key = canvas((height, width)) if height and width else ()
        of_canvas.setdefault(key, []).append(index)
    parts = []
    for indices in of_canvas.values():
        size = images_per_pass or len(indices)
        parts += [indices[first : first + size] for first in range(0, len(indices), size)]
    return sorted(parts)


def _uploaded(uploads: Uploads, images: list[Tensor]) -> UploadedImages:
    """Start to copy images to the GPU. Without memory for all, they stay here and go over pass by pass."""
    try:
        return uploads.start(images)
    except RuntimeError as error:
        if not lacks_memory(str(error)):
            raise
    torch.cuda.empty_cache()
    return UploadedImages(images, None)
