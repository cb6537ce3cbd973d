"""The Detector: candidates -> result rows; one process each, on a GPU where it was given one.

    candidates (candidates.CANDIDATE) -> Detector -> result rows (record.RESULT), one for one

A plain callable class, Ray or not. A candidate with another status than `ok` passes through. In a notebook it
takes a list of images as well (docs/python.md).
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from fastrcnn.config import LEARNED
from fastrcnn.detection import Scored, detect_counting, propose_learned
from fastrcnn.proposals import propose
from fastrcnn.rpn import Proposed
from fastrcnn.scoring_form import scoring_form
from fastrcnn.upload import Uploads
from pipeline import images, storage
from pipeline.attempts import AttemptLog, Attempts, attempt
from pipeline.checkpoints import load
from pipeline.config import Precision
from pipeline.schema import CANDIDATE, RESULT
from pipeline.scoring.halving import Pixels, detect_halving
from pipeline.scoring.passes import passes

Image = str | Path | bytes | npt.NDArray[np.uint8]
"""A path or URI, an encoded file, or upright pixels (H, W, 3) RGB."""
Box = dict[str, Any]
"""As column `detections` has it: label, label_id, score, x_min, y_min, x_max, y_max in image pixels."""

IMAGES_AT_ONCE = 8


class Detector:
    """A loaded model: candidates (CANDIDATE) to result rows (record.RESULT), one for one; or images to boxes.

    Args:
        checkpoint: folder or URI, downloaded by the process that makes the Detector.
        run_id: goes into every row.
        model_id: what the checkpoint must be; it may have been written anew since the driver read it.
        score_threshold: instead of the checkpoint's.
        precision: `auto`, bfloat16 where the device multiplies it; or `float32`.
        compile: the backbone, by torch.compile; its sizes are padded to multiples of 32.
        max_pixels: as in the CPU stage.
        images_per_pass: candidates of a call are taken so many at a time: the next ones are decoded, and on
            their way to the GPU, while it looks at these. None: all at once.
        gpu: whether to use one; None: if there is one.
        num_threads: of torch on the CPU; None: as torch likes.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        *,
        run_id: str = "",
        model_id: str | None = None,
        score_threshold: float | None = None,
        precision: Precision = "auto",
        compile: bool = False,
        max_pixels: int = images.MAX_PIXELS,
        images_per_pass: int | None = None,
        gpu: bool | None = None,
        num_threads: int | None = None,
        attempts: Attempts | None = None,
    ) -> None:
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        self._device = torch.device("cuda" if _use_gpu(gpu) else "cpu")
        self._checkpoint = load(str(checkpoint))
        if model_id not in (None, self._checkpoint.model_id):
            raise RuntimeError(
                f"{checkpoint} is model {self._checkpoint.model_id}, was {model_id} when the job started"
            )
        self._model = scoring_form(
            self._checkpoint.model.to(self._device),
            bfloat16=False if precision == "float32" else None,
        )
        if compile:
            self._model.backbone.compile(dynamic=True)
        self._run_id = run_id
        self._score_threshold = score_threshold
        self._max_pixels = max_pixels
        self._images_per_pass = images_per_pass
        self._uploads = Uploads(self._device)
        self._attempts = attempts or AttemptLog()

    def __call__(self, batch: pa.Table | Sequence[Image]) -> pa.Table | list[list[Box]]:
        """Candidates to result rows, as Ray Data calls it; or a list of images to their boxes (`detect`)."""
        if not isinstance(batch, pa.Table):
            return self.detect(batch)
        return attempt(
            *(batch, self._work, self._fail),
            stage="detect",
            attempts=self._attempts,
            alone=partial(self._work, fenced=True),
        )

    @property
    def classes(self) -> tuple[str, ...]:
        """Label k is classes[k - 1]."""
        return self._checkpoint.classes

    @property
    def model_id(self) -> str:
        """Of the checkpoint, as in column `model_id`."""
        return self._checkpoint.model_id

    def detect(
        self,
        images: Sequence[Image],
        proposals: Sequence[npt.NDArray[np.float32]] | None = None,
    ) -> list[list[Box]]:
        """The boxes of each image, by falling score: what a scoring run writes of the same image.

        Args:
            images: of any sizes.
            proposals: (P, 4) of each, xyxy in the image frame; None: of the detector's own RPN, or of the
                proposer that it was trained with, one after the other in this process.

        Raises:
            StorageError, ImageError: an image cannot be had or decoded. Here it is no row with a status.
            ValueError: another number of proposals than of images; or none, and no proposer to make them.
        """
        config = self._checkpoint.proposals
        if proposals is None and config.name == "table":
            raise ValueError("the detector was trained on a table of proposals: give proposals")
        if proposals is not None and len(proposals) != len(images):
            raise ValueError(f"{len(images)} images, but proposals for {len(proposals)}")
        boxes: list[list[Box]] = []
        for first in range(0, len(images), IMAGES_AT_ONCE):
            some = slice(first, first + IMAGES_AT_ONCE)
            pixels = [self._pixels(image) for image in images[some]]
            own = None if proposals is None else proposals[some]
            if own is None and config.name != LEARNED:
                own = [propose(p, config) for p in pixels]
            for outcome in detect_halving(self._detect, pixels, own):
                if isinstance(outcome, str):
                    raise RuntimeError(outcome)
                boxes.append(self._boxes(outcome))
        return boxes

    def propose(
        self, images: Sequence[Image]
    ) -> list[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
        """What the detector's own RPN proposes: boxes (P, 4), xyxy in the image frame, and scores (P,), best
        first.

        Raises:
            StorageError, ImageError: as in `detect`.
            ValueError: the detector has no RPN.
        """
        found = []
        for first in range(0, len(images), IMAGES_AT_ONCE):
            pixels = [self._pixels(image) for image in images[first : first + IMAGES_AT_ONCE]]
            for outcome in detect_halving(self._propose, pixels, None):
                if isinstance(outcome, str):
                    raise RuntimeError(outcome)
                found.append((outcome.boxes.cpu().numpy(), outcome.scores.cpu().numpy()))
        return found

    def _pixels(self, image: Image) -> npt.NDArray[np.uint8]:
        if isinstance(image, np.ndarray):
            return image
        data = image if isinstance(image, bytes) else storage.read_bytes(str(image))
        return images.decode(data, max_pixels=self._max_pixels).pixels

    def _work(self, candidates: pa.Table, *, fenced: bool = False) -> pa.Table:
        started = time.perf_counter()
        results: list[dict[str, Any]] = []
        for one in passes(
            *(candidates, self._uploads),
            images_per_pass=self._images_per_pass,
            max_pixels=self._max_pixels,
            fenced=fenced,
        ):
            outcomes = detect_halving(self._detect, one.images.wait(), one.proposals)
            found = iter(outcomes)
            now = datetime.datetime.now(datetime.UTC)
            for row in one.rows:
                outcome = next(found) if row["status"] == "ok" else None
                results.append(self._result(row, outcome, now))
        each = (time.perf_counter() - started) / max(1, len(results))
        for result in results:
            result["detect_s"] = each
        return pa.Table.from_pylist(results, schema=RESULT)

    def _fail(self, candidate: pa.Table, cause: str) -> pa.Table:
        row = candidate.to_pylist()[0] | {"status": "failed", "error": cause}
        now = datetime.datetime.now(datetime.UTC)
        return pa.Table.from_pylist([self._result(row, None, now)], schema=RESULT)

    def _detect(
        self,
        pixels: Sequence[Pixels],
        proposals: Sequence[npt.NDArray[np.float32]] | None,
    ) -> list[Scored]:
        threshold = self._score_threshold
        return detect_counting(self._model, pixels, proposals, score_threshold=threshold)

    def _propose(self, pixels: Sequence[Pixels], _: object) -> list[Proposed]:
        return propose_learned(self._model, pixels)

    def _result(
        self, row: dict[str, Any], outcome: Scored | str | None, now: datetime.datetime
    ) -> dict[str, Any]:
        result = {name: row[name] for name in CANDIDATE.names if name in RESULT.names}
        result |= {
            "model_id": self._checkpoint.model_id,
            "run_id": self._run_id,
            "scored_at": now,
            "num_proposals": len(row["proposals"]) // 16 if row["proposals"] is not None else None,
        }
        if isinstance(outcome, str):
            return result | {"status": "failed", "error": outcome}
        if outcome is None:
            return result
        return result | {
            "num_proposals": outcome.num_proposals,
            "num_detections": len(outcome.detections.scores),
            "detections": self._boxes(outcome),
        }

    def _boxes(self, outcome: Scored) -> list[Box]:
        found = outcome.detections
        return [
            {
                "label": self._checkpoint.classes[label - 1],
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


def _use_gpu(gpu: bool | None) -> bool:
    if gpu and not torch.cuda.is_available():
        raise RuntimeError(
            "this worker was given a GPU, but torch sees none: is this torch built for CUDA?"
        )
    return torch.cuda.is_available() if gpu is None else gpu
