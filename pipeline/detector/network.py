"""A loaded checkpoint on a device: decoded images -> scored images.

It reads no images and knows no table. `pipeline.detector.Detector` reads images for it, and
`pipeline.detector.result_rows` gives it the candidates of a scoring job.

Legend: N images, P proposals of one image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fastrcnn.checkpoint import CONFIG, Checkpoint, CheckpointError
from fastrcnn.detection import ScoredImage, canvases, detect_counting
from fastrcnn.halving import Pixels, detect_halving
from fastrcnn.model import with_config
from fastrcnn.precision import full_float32
from fastrcnn.regions import Regions, detect_in_regions, detects_in_regions
from fastrcnn.rpn import ProposedBoxes
from fastrcnn.scoring_form import scoring_form
from fastrcnn.tiled_detection import detect_looks, propose_tiled
from fastrcnn.tiles import Tiling
from pipeline.config import Precision
from pipeline.storage.checkpoints import checkpoint_folder, load

IMAGES_AT_ONCE = 8
"""Images in one batch of the network, when the library is called with a longer list."""


class Network:
    """A loaded checkpoint on a device. A batch that does not fit the GPU is halved.

    Args:
        checkpoint: folder or URI of the checkpoint, or the --output of a training.
        score_threshold, precision, compile, tile, tile_overlap, max_detections, gpu, model_id: as in
            `pipeline.detector.Detector`.

    Raises:
        ValueError: the model has an image pyramid, and tiles are asked for.
        fastrcnn.checkpoint.CheckpointError: the checkpoint is missing, incomplete or modified.
        RuntimeError: the checkpoint is not `model_id`, or `gpu` is true and torch sees no GPU.
    """

    def __init__(
        self,
        checkpoint: str,
        *,
        score_threshold: float | None,
        precision: Precision,
        compile: bool,
        tile: int | None,
        tile_overlap: float | None,
        max_detections: int | None,
        gpu: bool | None,
        model_id: str | None,
    ) -> None:
        self.device = torch.device("cuda" if _use_gpu(gpu) else "cpu")
        self.checkpoint = _load(checkpoint, model_id)
        changes = detection_changes(tile, tile_overlap, max_detections)
        self.model = scoring_form(
            with_config(self.checkpoint.model.to(self.device), **changes),
            bfloat16=False if precision == "float32" else None,
        )
        if compile:
            self.model.backbone.compile(dynamic=True)
        self._float32 = precision == "float32"
        self._score_threshold = score_threshold
        self.tiling = Tiling.of(self.model.config)
        """How images are divided into tiles. None: the network looks at whole images only."""
        self.in_parts = detects_in_regions(self.model.config)
        """Whether an image can be decoded in parts."""

    def score(
        self,
        pixels: Sequence[Pixels],
        proposals: Sequence[npt.NDArray[np.float32]] | None,
        looks_per_pass: int | None = None,
    ) -> list[ScoredImage | str]:
        """Pass decoded images through the network in one batch.

        With tiles, the whole images and their tiles pass through it, a few at a time.

        Args:
            pixels: N images (H, W, 3) uint8 RGB, upright, on any device.
            proposals: N arrays (P, 4) float32, image frame. None: the model's RPN makes them.
            looks_per_pass: with tiles, whole images and tiles in one batch. None: `IMAGES_AT_ONCE`.

        Returns:
            One result an image, in order. A text instead of a result is the reason why it is missing.
        """
        run = partial(detect_halving, self._detect)
        if self.tiling is None:
            return run(pixels, proposals)
        return detect_looks(
            run,
            pixels,
            proposals,
            self.tiling,
            self.model.config,
            looks_per_pass=looks_per_pass or IMAGES_AT_ONCE,
            most_whole=self.checkpoint.proposals.max_boxes,
            score_threshold=self._score_threshold,
        )

    def score_regions(
        self,
        image: Regions,
        proposals: npt.NDArray[np.float32] | None,
        looks_per_pass: int | None = None,
        seen: Callable[[int, int], None] | None = None,
    ) -> ScoredImage | str:
        """Score an image that is decoded in parts: its tiles, when the network sees them.

        Args:
            image: the open image.
            proposals: (P, 4) float32, image frame. None: the model's RPN makes them.
            looks_per_pass: as in `score`.
            seen: called with the number of tiles that were looked at, and that of all tiles.

        Returns:
            The result, or the reason as text why it is missing.
        """
        return detect_in_regions(
            partial(detect_halving, self._detect),
            image,
            proposals,
            self.model.config,
            looks_per_pass=looks_per_pass or IMAGES_AT_ONCE,
            most_whole=self.checkpoint.proposals.max_boxes,
            score_threshold=self._score_threshold,
            seen=seen,
        )

    def propose(self, pixels: Sequence[Pixels]) -> list[ProposedBoxes | str]:
        """Make proposals with the RPN, one result an image. A text is the reason why a result is missing."""
        return detect_halving(self._propose, pixels, None)

    def canvases(self, size: tuple[int, int]) -> tuple[tuple[int, int], ...]:
        """Give what an image of `size` (height, width) has in common with those that share its pass.

        A CPU passes images one by one, so there all images are alike.
        """
        return () if self.device.type == "cpu" else canvases(size, self.model.config)

    def _detect(
        self,
        pixels: Sequence[Pixels],
        proposals: Sequence[npt.NDArray[np.float32]] | None,
    ) -> list[ScoredImage]:
        threshold = self._score_threshold
        with self._precision():
            return detect_counting(self.model, pixels, proposals, score_threshold=threshold)

    def _propose(self, pixels: Sequence[Pixels], _: object) -> list[ProposedBoxes]:
        with self._precision():
            return propose_tiled(self.model, pixels)

    def _precision(self) -> AbstractContextManager[None]:
        return full_float32() if self._float32 else nullcontext()


def detection_changes(
    tile: int | None, tile_overlap: float | None, max_detections: int | None
) -> dict[str, Any]:
    """Return the fields of `FastRCNNConfig` that these arguments change. None: the checkpoint's value."""
    given = {"tile": tile, "tile_overlap": tile_overlap, "detections_per_image": max_detections}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return changes | ({"tile": None} if tile == 0 else {})


def _load(uri: str, model_id: str | None) -> Checkpoint:
    """Load the checkpoint. Raises as `Network` does."""
    folder = checkpoint_folder(uri)
    if folder is None:
        raise CheckpointError(
            f"{uri} holds no {CONFIG}, neither directly nor in its folder checkpoint/"
        )
    checkpoint = load(folder)
    if model_id not in (None, checkpoint.model_id):
        raise RuntimeError(
            f"{uri} holds model {checkpoint.model_id}: expected {model_id}, as when the job started."
            " Restore the checkpoint, or start the job again"
        )
    return checkpoint


def _use_gpu(gpu: bool | None) -> bool:
    if gpu and not torch.cuda.is_available():
        raise RuntimeError(
            "a GPU was requested, but torch sees none. Check that torch is built for CUDA, and the GPU driver"
        )
    return torch.cuda.is_available() if gpu is None else gpu
