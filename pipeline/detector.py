"""The library's detector: images -> `Detections`. It starts no Ray and writes nothing (docs/python.md).

The actors of a scoring job (`pipeline.scoring.detector`) look at images through the same object.
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

from fastrcnn.detection import Scored, detect_counting, propose_learned
from fastrcnn.proposals import propose
from fastrcnn.rpn import Proposed
from fastrcnn.scoring_form import scoring_form
from pipeline import images
from pipeline.checkpoints import load
from pipeline.config import Precision
from pipeline.detections import Detections
from pipeline.errors import one_line
from pipeline.image_inputs import Image, check_image, check_images, read_pixels
from pipeline.operating_points import is_score, min_scores

Box = dict[str, Any]
"""One detection as column `detections` has it: label, label_id, score, x_min, y_min, x_max, y_max."""
Pixels = npt.NDArray[np.uint8] | Tensor
"""(H, W, 3) uint8 RGB, upright."""
Outcome = TypeVar("Outcome")

IMAGES_AT_ONCE = 8


class Detector:
    """A loaded model that detects objects in images.

    Args:
        checkpoint: folder or URI of the checkpoint.
        min_score: `Detections` hold the boxes with this score or more. None: each class's operating point
            where the checkpoint has it, else .5. 0: every box that a scoring job writes.
        score_threshold: replaces the checkpoint's, below which a box is not made at all.
        precision: `auto`: bfloat16 where the processor multiplies it. `float32`: float32 everywhere.
        compile: compile the backbone with torch.compile; images are padded to multiples of 32.
        max_pixels: larger images are refused before they are decoded.
        gpu: whether to use a GPU; None: if there is one.
        num_threads: threads of torch on the CPU; None: torch decides.
        model_id: the model that the caller expects; a checkpoint of another model is refused.
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
                f"min_score is {min_score!r}: expected 0 or more, or None for the operating points"
            )
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        self.device = torch.device("cuda" if _use_gpu(gpu) else "cpu")
        self._checkpoint = load(str(checkpoint))
        if model_id not in (None, self.model_id):
            raise RuntimeError(
                f"{checkpoint} is model {self.model_id}, was {model_id} when the job started"
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
        """The names of the classes; label k is classes[k - 1]."""
        return self._checkpoint.classes

    @property
    def model_id(self) -> str:
        """The checkpoint's model, as column `model_id` of a scoring job names it."""
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
            images: one image, or a list or tuple of them. An image is a path, a URI, the bytes of a file,
                a PIL image, a uint8 array (H, W, 3) RGB or (H, W) gray, or a torch uint8 tensor (3, H, W).
            proposals: (P, 4) float32, xyxy in the image frame, or a list of them; as in `detect`.

        Returns:
            `Detections` of one image; a list of them for a list of images, in order.

        Raises:
            TypeError, ValueError: something that is no image; the text says what it is, and its position
                in the list, from 0.
            StorageError, ImageError: an image cannot be read or decoded; the text says which.
        """
        if isinstance(images, pa.Table):  # how this class was called before the actor had its own
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
        """Detect objects; give every box that a scoring job writes of the same images, as dictionaries.

        Args:
            images: of any kind that a call takes, and of any sizes.
            proposals: one array (P, 4) an image, xyxy in the image frame. None: made by the detector's RPN,
                or by the proposer that it was trained with, one image after the other in this process.

        Returns:
            The boxes of each image, by falling score.

        Raises:
            TypeError, ValueError, StorageError, ImageError: as a call does.
            ValueError: another number of proposals than of images; or none, and no proposer to make them.
        """
        return [self.boxes(one) for one in self._scored(images, proposals)]

    def propose(
        self, images: Sequence[Image]
    ) -> list[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
        """Give what the detector's RPN proposes: boxes (P, 4), xyxy in the image frame, and scores (P,), best
        first.

        Raises:
            TypeError, ValueError, StorageError, ImageError: as a call does.
            ValueError: the detector has no RPN.
        """
        check_images(images)
        proposed = []
        for first in range(0, len(images), IMAGES_AT_ONCE):
            pixels = self._read(images, first)
            outcomes: list[Proposed | str] = detect_halving(self._propose, pixels, None)
            for index, outcome in enumerate(outcomes, first):
                one = _success(outcome, images, index)
                proposed.append((one.boxes.cpu().numpy(), one.scores.cpu().numpy()))
        return proposed

    def score(
        self, pixels: Sequence[Pixels], proposals: Sequence[npt.NDArray[np.float32]] | None
    ) -> list[Scored | str]:
        """Pass decoded images through the network, all at once or, where the GPU has no room, in halves.

        Args:
            pixels: N images (H, W, 3) uint8 RGB, upright, on the detector's device or not.
            proposals: N arrays (P, 4) float32, image frame; None: made by the model's RPN.

        Returns:
            One outcome an image, in order; a text is the reason why that image has none.
        """
        return detect_halving(self._detect, pixels, proposals)

    def boxes(self, scored: Scored) -> list[Box]:
        """Turn the outcome of one image into dictionaries, by falling score."""
        found = scored.detections
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
                found.boxes.tolist(),
                found.labels.tolist(),
                found.scores.tolist(),
                strict=True,
            )
        ]

    def _detections(self, scored: Scored) -> Detections:
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
        """Read, propose and score images, some at a time."""
        config = self._checkpoint.proposals
        if proposals is None and config.spec.precomputed:
            raise ValueError("the detector was trained on a table of proposals: give proposals")
        if proposals is not None:
            _check_proposals(proposals, len(images))
        check_images(images)
        for first in range(0, len(images), IMAGES_AT_ONCE):
            pixels = self._read(images, first)
            given = None if proposals is None else proposals[first : first + IMAGES_AT_ONCE]
            if given is None and not config.spec.learned:
                given = [propose(one, config) for one in pixels]
            for index, outcome in enumerate(self.score(pixels, given), first):
                yield _success(outcome, images, index)

    def _read(self, images: Sequence[Image], first: int) -> list[npt.NDArray[np.uint8]]:
        """Read the next few images, from number `first`."""
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
    run: Callable[[Sequence[Any], Sequence[Any] | None], list[Outcome]],
    pixels: Sequence[Pixels],
    proposals: Sequence[npt.NDArray[np.float32]] | None,
) -> list[Outcome | str]:
    """Run on a batch; where it does not fit the GPU, on its halves. An image that does not fit alone gives
    the reason as text instead of its outcome."""
    if not pixels:
        return []
    try:
        return list(run(pixels, proposals))
    except torch.cuda.OutOfMemoryError as error:
        cause = one_line(error)
    # Outside the handler: the traceback would keep the failed batch's tensors alive.
    torch.cuda.empty_cache()
    if len(pixels) == 1:
        return [cause]
    half = len(pixels) // 2
    first, second = (
        detect_halving(run, pixels[part], None if proposals is None else proposals[part])
        for part in (slice(None, half), slice(half, None))
    )
    return [*first, *second]


def _place(images: Sequence[object], index: int) -> str:
    """What an error of one image of several begins with; nothing where there is one image only."""
    return f"image {index}: " if len(images) > 1 else ""


def _success(outcome: Outcome | str, images: Sequence[object], index: int) -> Outcome:
    """Return the outcome of images[index]. RuntimeError: it is the reason why there is none."""
    if isinstance(outcome, str):
        raise RuntimeError(f"{_place(images, index)}{outcome}")
    return outcome


def _check_proposals(proposals: Sequence[object], num_images: int) -> None:
    if len(proposals) != num_images:
        raise ValueError(f"{num_images} images, but proposals for {len(proposals)}")
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
            "this worker was given a GPU, but torch sees none: is this torch built for CUDA?"
        )
    return torch.cuda.is_available() if gpu is None else gpu
