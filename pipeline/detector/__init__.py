"""The library's detector: images -> `Detections`. It starts no Ray and writes nothing (docs/python.md).

The actors of a scoring job (`pipeline.scoring.detector`) hold the same object.

Legend: N images, P proposals of one image, K classes. Boxes are xyxy, absolute pixels in the image frame (the
image after its EXIF orientation is applied).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from fastrcnn.detection import ScoredImage
from fastrcnn.halving import Outcome
from fastrcnn.proposals.tiled import propose_on_tiles
from pipeline import images
from pipeline.config import Precision
from pipeline.detections import Detections, is_score, min_scores
from pipeline.detector.in_parts import check_tile
from pipeline.detector.network import IMAGES_AT_ONCE, Network
from pipeline.detector.result_rows import score_candidates
from pipeline.images import SampleRules
from pipeline.images.inputs import (
    Image,
    check_image,
    check_images,
    located,
    parts_of,
    read_pixels,
)
from pipeline.images.regions import RegionImage, open_regions
from pipeline.images.tiff_directory import Data

Box = dict[str, Any]
"""One detection as in the column `detections`: label, label_id, score, x_min, y_min, x_max, y_max."""


class Detector:
    """A loaded model that detects objects in images.

    Args:
        checkpoint: folder or URI of the checkpoint, or the --output of a training.
        min_score: `Detections` hold the boxes with this score or more. None: the class's operating point if
            the checkpoint has one, else 0.5. 0: every box that a scoring job writes.
        score_threshold: replaces the score threshold of the checkpoint. Boxes below it are never made.
        precision: `auto`: bfloat16 if the processor multiplies it in hardware. `float32`: float32 everywhere,
            without TF32.
        compile: compile the backbone with torch.compile. Images are padded to multiples of 32.
        max_pixels: images with more pixels are refused before decoding.
        tile: side of the tiles that larger images are divided into, as --tile of the scoring job
            (docs/tiles.md). None: that of the training. 0: no tiles.
        tile_overlap: share of `tile` that two neighbours have in common. None: that of the training.
        max_detections: boxes of an image at most; with tiles, of each tile. None: that of the checkpoint.
        range: the samples that become black and white, as --range of the scoring job (docs/pixels.md). None:
            those of the training.
        bands: the bands that become red, green and blue, from 1, as --bands. None: those of the training.
        truncated: what to do with a JPEG that lacks its end, as --truncated of the scoring job.
        gpu: whether to use a GPU. None: use one if torch sees one.
        num_threads: CPU threads of torch. None: torch decides.
        model_id: the model that the caller expects. A checkpoint of another model is refused.

    Raises:
        ValueError: `min_score` is negative or not a number, the operating points cannot be used, `range` or
            `bands` are no such numbers, or the model has an image pyramid and tiles are asked for.
        fastrcnn.checkpoint.CheckpointError: the checkpoint is missing, incomplete or modified.
        RuntimeError: the checkpoint is not `model_id`, or `gpu` is true and torch sees no GPU.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        *,
        min_score: float | None = None,
        score_threshold: float | None = None,
        precision: Precision = "auto",
        compile: bool = False,
        max_pixels: int = images.MAX_PIXELS,
        tile: int | None = None,
        tile_overlap: float | None = None,
        max_detections: int | None = None,
        range: tuple[float, float] | None = None,
        bands: tuple[int, int, int] | None = None,
        truncated: images.Truncated = "warn",
        gpu: bool | None = None,
        num_threads: int | None = None,
        model_id: str | None = None,
    ) -> None:
        if min_score is not None and not (is_score(min_score) and min_score >= 0):
            raise ValueError(
                f"min_score is {min_score!r}: expected a number of 0 or more, or None for the operating"
                " points"
            )
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        self.network = Network(
            str(checkpoint),
            score_threshold=score_threshold,
            precision=precision,
            compile=compile,
            tile=tile,
            tile_overlap=tile_overlap,
            max_detections=max_detections,
            gpu=gpu,
            model_id=model_id,
        )
        """What passes decoded images through the model. The actors of a scoring job call it."""
        config = self.network.checkpoint.config
        if min_score is None:
            self._min_scores = min_scores(config, self.classes, str(checkpoint))
        else:
            self._min_scores = np.full(len(self.classes), min_score or -np.inf, np.float32)
        self.max_pixels = max_pixels
        self.rules = SampleRules.of_checkpoint(config).replaced(range, bands)
        """How samples become pixels."""
        self.truncated: images.Truncated = truncated

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names; label k is classes[k - 1]."""
        return self.network.checkpoint.classes

    @property
    def model_id(self) -> str:
        """The id of the model, as in the column `model_id` of a scoring job."""
        return self.network.checkpoint.model_id

    @overload
    def __call__(
        self,
        images: list[Any] | tuple[Any, ...],
        proposals: Sequence[npt.NDArray[np.float32]] | None = None,
    ) -> list[Detections]: ...

    @overload
    def __call__(
        self, images: Image, proposals: npt.NDArray[np.float32] | None = None
    ) -> Detections: ...

    def __call__(self, images: Any, proposals: Any = None) -> Any:
        """Detect objects in one image or several.

        Args:
            images: one image, or a list or tuple of images. An image is a path, a URI, the bytes of a file,
                a PIL image, a uint8 array (H, W, 3) RGB or (H, W) gray, or a torch uint8 tensor (3, H, W).
            proposals: (P, 4) float32, xyxy in the image frame; for a list of images, a list of such arrays.
                None: as in `detect`.

        Returns:
            `Detections` for one image; for a list of images, a list of `Detections` in the same order.

        Raises:
            TypeError, ValueError: a value is no image. The message names its kind and its position in the
                list, from 0.
            StorageError, ImageError: an image cannot be read or decoded. The message names it.
        """
        if isinstance(images, pa.Table):  # older callers use this class as the actor of a job
            return score_candidates(self, images)
        if isinstance(images, list | tuple):
            return [self._detections(scored) for scored in self._scored(images, proposals)]
        check_image(images)
        (scored,) = self._scored([images], None if proposals is None else [proposals])
        return self._detections(scored)

    def detect(
        self,
        images: Sequence[Image],
        proposals: Sequence[npt.NDArray[np.float32]] | None = None,
    ) -> list[list[Box]]:
        """Detect objects; return every box that a scoring job writes for the same images, as dictionaries.

        Args:
            images: images of any kind that `__call__` accepts, and of any sizes.
            proposals: one float32 array (P, 4) an image, xyxy in the image frame. None: the detector's RPN
                makes them; a detector without RPN uses the proposer that it was trained with, one image
                after the other in this process.

        Returns:
            The boxes of each image, by falling score.

        Raises:
            TypeError, ValueError, StorageError, ImageError: as in `__call__`.
            ValueError: the number of proposal arrays is not the number of images; or `proposals` is None and
                the detector was trained on a table of proposals.
        """
        return [self.boxes(scored) for scored in self._scored(images, proposals)]

    def propose(
        self, images: Sequence[Image]
    ) -> list[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
        """Make proposals with the detector's RPN.

        Returns:
            For each image, boxes (P, 4) float32, xyxy in the image frame, and scores (P,), best first.

        Raises:
            TypeError, ValueError, StorageError, ImageError: as in `__call__`.
            ValueError: the detector has no RPN.
        """
        check_images(images)
        proposed = []
        for first in range(0, len(images), IMAGES_AT_ONCE):
            last = min(first + IMAGES_AT_ONCE, len(images))
            pixels = self._read(images, range(first, last))
            for index, outcome in enumerate(self.network.propose(pixels), first):
                result = _result_or_raise(outcome, images, index)
                proposed.append((result.boxes.cpu().numpy(), result.scores.cpu().numpy()))
        return proposed

    def boxes(self, scored: ScoredImage) -> list[Box]:
        """Turn the result of one image into dictionaries, by falling score."""
        detections = scored.detections
        return [
            {
                "label": self.classes[label - 1],
                "label_id": label,
                "score": score,
                "x_min": box[0],
                "y_min": box[1],
                "x_max": box[2],
                "y_max": box[3],
            }
            for box, label, score in zip(
                detections.boxes.tolist(),
                detections.labels.tolist(),
                detections.scores.tolist(),
                strict=True,
            )
        ]

    def _detections(self, scored: ScoredImage) -> Detections:
        """Turn the result of one image into `Detections`, without the boxes below `min_score`."""
        boxes, ids, scores = (values.numpy() for values in scored.detections)
        labels = np.array(self.classes)[ids - 1]
        detections = Detections(labels=labels, label_ids=ids, scores=scores, boxes=boxes)
        above: npt.NDArray[np.bool_] = scores >= self._min_scores[ids - 1]
        return detections[above]

    def _scored(
        self,
        images: Sequence[Image],
        proposals: Sequence[npt.NDArray[np.float32]] | None,
    ) -> Iterator[ScoredImage]:
        """Read images, make their proposals and score them, `IMAGES_AT_ONCE` at a time."""
        config = self.network.checkpoint.proposals
        if proposals is None and config.spec.precomputed:
            raise ValueError(
                "proposals is None, but the detector was trained on a table of proposals: give one array"
                " (P, 4) an image"
            )
        if proposals is not None:
            _check_proposals(proposals, len(images))
        check_images(images)
        in_parts = self.network.in_parts and (proposals is not None or config.spec.learned)
        for first in range(0, len(images), IMAGES_AT_ONCE):
            indices = range(first, min(first + IMAGES_AT_ONCE, len(images)))
            large = {i: parts_of(images[i], self.max_pixels) for i in indices if in_parts}
            whole = [i for i in indices if large.get(i) is None]
            pixels = self._read(images, whole)
            batch = None if proposals is None else [proposals[i] for i in whole]
            if batch is None and not config.spec.learned:
                batch = [propose_on_tiles(image, config, self.network.tiling) for image in pixels]
            outcomes = dict(zip(whole, self.network.score(pixels, batch), strict=True))
            for index in indices:
                data = large.get(index)
                if data is not None:
                    boxes = None if proposals is None else proposals[index]
                    with located(images[index], _place(images, index)):
                        outcomes[index] = self.score_data(data, boxes)[0]
                yield _result_or_raise(outcomes.pop(index), images, index)

    def score_data(
        self,
        data: Data,
        proposals: npt.NDArray[np.float32] | None,
        looks_per_pass: int | None = None,
        seen: Callable[[int, int], None] | None = None,
    ) -> tuple[ScoredImage | str, RegionImage]:
        """Detect objects in an image that is decoded in parts (`pipeline.images.regions`).

        Args:
            data: the encoded bytes.
            proposals: (P, 4) float32, image frame. None: the model's RPN makes them.
            looks_per_pass: as in `Network.score`.
            seen: called with the number of tiles that were looked at, and that of all tiles.

        Returns:
            The result, or the reason as text why it is missing; and the image, for its size and warning.

        Raises:
            ImageError, StorageError: the image cannot be read or decoded.
        """
        tiling = self.network.tiling
        assert tiling is not None
        with open_regions(data, max_pixels=self.max_pixels, rules=self.rules) as image:
            check_tile(image.size, tiling, self.max_pixels)
            scored = self.network.score_regions(image, proposals, looks_per_pass, seen)
            return scored, image

    def _read(self, images: Sequence[Image], indices: Sequence[int]) -> list[npt.NDArray[np.uint8]]:
        """Read some of the images."""
        return [
            read_pixels(
                images[index],
                max_pixels=self.max_pixels,
                rules=self.rules,
                truncated=self.truncated,
                place=_place(images, index),
            )
            for index in indices
        ]


def _place(images: Sequence[object], index: int) -> str:
    """Return the beginning of an error message, ``image 3: ``; empty if there is only one image."""
    return f"image {index}: " if len(images) > 1 else ""


def _result_or_raise(outcome: Outcome | str, images: Sequence[object], index: int) -> Outcome:
    """Return the result of images[index]. Raises RuntimeError if it is a text, the cause of its absence."""
    if isinstance(outcome, str):
        raise RuntimeError(f"{_place(images, index)}{outcome}")
    return outcome


def _check_proposals(proposals: Sequence[object], num_images: int) -> None:
    if len(proposals) != num_images:
        raise ValueError(
            f"proposals has {len(proposals)} arrays for {num_images} images: expected one array an image"
        )
    for index, boxes in enumerate(proposals):
        shape = getattr(boxes, "shape", None)
        if shape is None or len(shape) != 2 or shape[1] != 4:
            given = f"of shape {tuple(shape)}" if shape is not None else type(boxes).__name__
            raise ValueError(
                f"the proposals of image {index} are {given}: expected an array (P, 4), xyxy"
            )
