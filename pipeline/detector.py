"""The library's detector: images -> `Detections`. It starts no Ray and writes nothing (docs/python.md).

The actors of a scoring job (`pipeline.scoring.detector`) hold the same object.

Legend: N images, P proposals of one image, K classes. Boxes are xyxy, absolute pixels in the image frame (the
image after its EXIF orientation is applied).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from fastrcnn.checkpoint import CONFIG, CheckpointError
from fastrcnn.detection import Scored, detect_counting, propose_learned
from fastrcnn.proposals import propose
from fastrcnn.rpn import Proposed
from fastrcnn.scoring_form import scoring_form
from pipeline import images
from pipeline.config import Precision
from pipeline.detections import Detections, is_score, min_scores
from pipeline.errors import one_line
from pipeline.images.inputs import Image, check_image, check_images, read_pixels
from pipeline.storage.checkpoints import checkpoint_folder, load

Box = dict[str, Any]
"""One detection as in the column `detections`: label, label_id, score, x_min, y_min, x_max, y_max."""
Pixels = npt.NDArray[np.uint8] | Tensor
"""(H, W, 3) uint8 RGB, upright."""
Outcome = TypeVar("Outcome")

IMAGES_AT_ONCE = 8
"""Images in one batch of the network, when the library is called with a longer list."""


class Detector:
    """A loaded model that detects objects in images.

    Args:
        checkpoint: folder or URI of the checkpoint, or the --output of a training.
        min_score: `Detections` hold the boxes with this score or more. None: the class's operating point if
            the checkpoint has one, else 0.5. 0: every box that a scoring job writes.
        score_threshold: replaces the score threshold of the checkpoint. Boxes below it are never made.
        precision: `auto`: bfloat16 if the processor multiplies it in hardware. `float32`: float32 everywhere.
        compile: compile the backbone with torch.compile. Images are padded to multiples of 32.
        max_pixels: images with more pixels are refused before decoding.
        gpu: whether to use a GPU. None: use one if torch sees one.
        num_threads: CPU threads of torch. None: torch decides.
        model_id: the model that the caller expects. A checkpoint of another model is refused.

    Raises:
        ValueError: `min_score` is negative or not a number, or the operating points cannot be used.
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
        self.device = torch.device("cuda" if _use_gpu(gpu) else "cpu")
        folder = checkpoint_folder(str(checkpoint))
        if folder is None:
            raise CheckpointError(
                f"{checkpoint} holds no {CONFIG}, neither directly nor in its folder checkpoint/"
            )
        self._checkpoint = load(folder)
        if model_id not in (None, self.model_id):
            raise RuntimeError(
                f"{checkpoint} holds model {self.model_id}: expected {model_id}, as when the job started."
                " Restore the checkpoint, or start the job again"
            )
        if min_score is None:
            self._min_scores = min_scores(self._checkpoint.config, self.classes, str(checkpoint))
        else:
            self._min_scores = np.full(len(self.classes), min_score or -np.inf, np.float32)
        self._model = scoring_form(
            self._checkpoint.model.to(self.device),
            bfloat16=False if precision == "float32" else None,
        )
        if compile:
            self._model.backbone.compile(dynamic=True)
        self._score_threshold = score_threshold
        self.max_pixels = max_pixels

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names; label k is classes[k - 1]."""
        return self._checkpoint.classes

    @property
    def model_id(self) -> str:
        """The id of the model, as in the column `model_id` of a scoring job."""
        return self._checkpoint.model_id

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
        if isinstance(
            images, pa.Table
        ):  # the actor was this class once, and was called with a table
            from pipeline.scoring.detector import score_candidates

            return score_candidates(self, images)
        if isinstance(images, list | tuple):
            return [self._detections(one) for one in self._scored(images, proposals)]
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
        return [self.boxes(one) for one in self._scored(images, proposals)]

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
            pixels = self._read(images, first)
            outcomes: list[Proposed | str] = detect_halving(self._propose, pixels, None)
            for index, outcome in enumerate(outcomes, first):
                result = _success(outcome, images, index)
                proposed.append((result.boxes.cpu().numpy(), result.scores.cpu().numpy()))
        return proposed

    def score(
        self, pixels: Sequence[Pixels], proposals: Sequence[npt.NDArray[np.float32]] | None
    ) -> list[Scored | str]:
        """Pass decoded images through the network in one batch. A batch that does not fit the GPU is halved.

        Args:
            pixels: N images (H, W, 3) uint8 RGB, upright, on any device.
            proposals: N arrays (P, 4) float32, image frame. None: the model's RPN makes them.

        Returns:
            One result an image, in order. A text instead of a result is the reason why it is missing.
        """
        return detect_halving(self._detect, pixels, proposals)

    def boxes(self, scored: Scored) -> list[Box]:
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

    def _detections(self, scored: Scored) -> Detections:
        """Turn the result of one image into `Detections`, without the boxes below `min_score`."""
        boxes, ids, scores = (values.numpy() for values in scored.detections)
        labels = np.array(self.classes)[ids - 1]
        detections = Detections(labels=labels, label_ids=ids, scores=scores, boxes=boxes)
        kept: npt.NDArray[np.bool_] = scores >= self._min_scores[ids - 1]
        return detections[kept]

    def _scored(
        self,
        images: Sequence[Image],
        proposals: Sequence[npt.NDArray[np.float32]] | None,
    ) -> Iterator[Scored]:
        """Read images, make their proposals and score them, `IMAGES_AT_ONCE` at a time."""
        config = self._checkpoint.proposals
        if proposals is None and config.spec.precomputed:
            raise ValueError(
                "proposals is None, but the detector was trained on a table of proposals: give one array"
                " (P, 4) an image"
            )
        if proposals is not None:
            _check_proposals(proposals, len(images))
        check_images(images)
        for first in range(0, len(images), IMAGES_AT_ONCE):
            pixels = self._read(images, first)
            batch = None if proposals is None else proposals[first : first + IMAGES_AT_ONCE]
            if batch is None and not config.spec.learned:
                batch = [propose(one, config) for one in pixels]
            for index, outcome in enumerate(self.score(pixels, batch), first):
                yield _success(outcome, images, index)

    def _read(self, images: Sequence[Image], first: int) -> list[npt.NDArray[np.uint8]]:
        """Read the next `IMAGES_AT_ONCE` images, from index `first`."""
        return [
            read_pixels(image, max_pixels=self.max_pixels, place=_place(images, index))
            for index, image in enumerate(images[first : first + IMAGES_AT_ONCE], first)
        ]

    def _detect(
        self,
        pixels: Sequence[Pixels],
        proposals: Sequence[npt.NDArray[np.float32]] | None,
    ) -> list[Scored]:
        threshold = self._score_threshold
        return detect_counting(self._model, pixels, proposals, score_threshold=threshold)

    def _propose(self, pixels: Sequence[Pixels], _: object) -> list[Proposed]:
        return propose_learned(self._model, pixels)


def detect_halving(
    network: Callable[[Sequence[Any], Sequence[Any] | None], list[Outcome]],
    pixels: Sequence[Pixels],
    proposals: Sequence[npt.NDArray[np.float32]] | None,
) -> list[Outcome | str]:
    """Call the network on a batch; if the batch does not fit the GPU, call it on the halves.

    Args:
        network: (pixels, proposals) -> one result an image.
        pixels: N images, as in `Detector.score`.
        proposals: N arrays, or None.

    Returns:
        One result an image. If one image alone does not fit, its result is the cause as text.
    """
    if not pixels:
        return []
    try:
        return list(network(pixels, proposals))
    except torch.cuda.OutOfMemoryError as error:
        cause = one_line(error)
    # Not inside the handler, where the traceback keeps the tensors of the failed batch alive.
    torch.cuda.empty_cache()
    if len(pixels) == 1:
        return [cause]
    half = len(pixels) // 2
    first, second = (
        detect_halving(network, pixels[part], None if proposals is None else proposals[part])
        for part in (slice(None, half), slice(half, None))
    )
    return [*first, *second]


def _place(images: Sequence[object], index: int) -> str:
    """Return the beginning of an error message, ``image 3: ``; empty if there is only one image."""
    return f"image {index}: " if len(images) > 1 else ""


def _success(outcome: Outcome | str, images: Sequence[object], index: int) -> Outcome:
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


def _use_gpu(gpu: bool | None) -> bool:
    if gpu and not torch.cuda.is_available():
        raise RuntimeError(
            "a GPU was requested, but torch sees none. Check that torch is built for CUDA, and the GPU driver"
        )
    return torch.cuda.is_available() if gpu is None else gpu
