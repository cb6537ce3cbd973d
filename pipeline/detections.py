"""The detections of one image, as the library's `Detector` returns them.

Legend: D detections, by falling score; K classes. Boxes are xyxy, absolute pixels in the image frame, with
continuous edges: the width is x_max - x_min. The image frame is the image after its EXIF orientation is
applied.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt
from PIL import Image as PILImage

from pipeline.drawing.pictures import draw_boxes
from pipeline.images.inputs import check_image, read_pixels

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.images.inputs import Image

DEFAULT_MIN_SCORE = 0.5
"""Lowest score of the boxes that people look at, if the checkpoint has no operating point for the class."""
_CLASSES_SHOWN = 5
"""Classes that `repr` lists, the most frequent first."""


class Detection(NamedTuple):
    """One detection, as plain Python values."""

    label: str
    """The name of the class."""
    label_id: int
    """The number of the class, 1..K. 0 is the background and does not occur."""
    score: float
    """From 0 to 1."""
    box: tuple[float, float, float, float]
    """(x_min, y_min, x_max, y_max), pixels of the image frame."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Detections:
    """The detections of one image, as arrays of the same length D.

    `len(detections)` is D, and iteration gives one `Detection` after the other. An integer index gives a
    `Detection`; a slice, a mask or a list of integers gives `Detections`:

        detections[:10]
        detections[detections.labels == "cat"]
    """

    labels: npt.NDArray[np.str_]
    """(D,) class names."""
    label_ids: npt.NDArray[np.int64]
    """(D,) class numbers, 1..K in the order of `Detector.classes`."""
    scores: npt.NDArray[np.float32]
    """(D,). A `Detector` returns them in falling order."""
    boxes: npt.NDArray[np.float32]
    """(D, 4) xyxy, image frame."""

    def __post_init__(self) -> None:
        """Turn lists into arrays of the right dtype. Raises ValueError if the shapes do not fit together."""
        for name, dtype in (
            ("labels", np.str_),
            ("label_ids", np.int64),
            ("scores", np.float32),
            ("boxes", np.float32),
        ):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype))
        if self.boxes.size == 0 and len(self.scores) == 0:
            object.__setattr__(self, "boxes", self.boxes.reshape(0, 4))
        for name in ("labels", "label_ids", "boxes"):
            shape = getattr(self, name).shape
            expected = self.scores.shape[:1] + ((4,) if name == "boxes" else ())
            if self.scores.ndim != 1 or shape != expected:
                raise ValueError(
                    f"{name} has shape {shape} and scores {self.scores.shape}: expected labels, label_ids"
                    " and scores of shape (D,), and boxes of shape (D, 4)"
                )

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Detection]:
        columns = (self.labels.tolist(), self.label_ids.tolist(), self.scores.tolist())
        for label, label_id, score, box in zip(*columns, self.boxes.tolist(), strict=True):
            yield Detection(label, label_id, score, tuple(box))

    @overload
    def __getitem__(self, index: int) -> Detection: ...

    @overload
    def __getitem__(self, index: slice | Sequence[int] | npt.NDArray[Any]) -> Detections: ...

    def __getitem__(
        self, index: int | slice | Sequence[int] | npt.NDArray[Any]
    ) -> Detection | Detections:
        """Return one detection by its index, or several by a slice, a mask (D,) or a list of indices."""
        if isinstance(index, int | np.integer) and not isinstance(index, bool):
            return next(iter(self._select([int(index)])))
        if isinstance(index, slice):
            return self._select(index)
        indices = np.asarray(index)
        if indices.ndim != 1:
            raise TypeError(
                f"the index is {index!r}: expected an integer, a slice, a mask of shape ({len(self)},) or"
                " a list of integers"
            )
        return self._select(indices if len(indices) else indices.astype(np.int64))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Detections):
            return NotImplemented
        names = ("labels", "label_ids", "scores", "boxes")
        return all(np.array_equal(getattr(self, name), getattr(other, name)) for name in names)

    def __repr__(self) -> str:
        if not len(self):
            return "Detections(none)"
        counts = Counter(self.labels.tolist()).most_common()
        shown = [f"{count} {label}" for label, count in counts[:_CLASSES_SHOWN]]
        if len(counts) > _CLASSES_SHOWN:
            shown.append(f"{sum(count for _, count in counts[_CLASSES_SHOWN:])} of other classes")
        scores = f"scores {self.scores.min():.2f} to {self.scores.max():.2f}"
        return f"Detections({len(self)}: {', '.join(shown)}; {scores})"

    def above(self, score: float) -> Detections:
        """Return the detections with a score of `score` or more."""
        return self[self.scores >= score]

    def to_pandas(self) -> pd.DataFrame:
        """Make a table with D rows and the columns label, label_id, score, x_min, y_min, x_max, y_max.

        The table `detections` of a scoring job has the same column names.
        """
        import pandas as pd

        edges = dict(zip(("x_min", "y_min", "x_max", "y_max"), self.boxes.T, strict=True))
        labels = self.labels.astype(object)  # each cell holds a plain str
        columns = {"label": labels, "label_id": self.label_ids, "score": self.scores}
        return pd.DataFrame(columns | edges)

    def to_supervision(self) -> Any:
        """Make a `supervision.Detections`.

        class_id is label_id - 1, because supervision counts classes from 0. The class names are in
        data["class_name"].

        Raises:
            ModuleNotFoundError: supervision is not installed.
        """
        try:
            import supervision
        except ModuleNotFoundError as error:
            if error.name != "supervision":
                raise
            raise ModuleNotFoundError(
                "to_supervision needs the package supervision, which is not installed."
                " Run: pip install supervision",
                name="supervision",
            ) from error
        return supervision.Detections(
            xyxy=self.boxes.copy(),
            confidence=self.scores.copy(),
            class_id=self.label_ids - 1,
            data={"class_name": self.labels.copy()},
        )

    def draw(self, image: Image) -> PILImage.Image:
        """Draw the boxes with their labels and scores on a copy of the image.

        Args:
            image: the image that was given to the `Detector`; any kind that a `Detector` accepts.

        Raises:
            TypeError, ValueError: the value is no image.
            StorageError, ImageError: the image cannot be read or decoded.
        """
        check_image(image)
        ids = self.label_ids.tolist()
        names = [""] * max(ids, default=0)  # label k is names[k - 1]
        for label_id, label in zip(ids, self.labels.tolist(), strict=True):
            names[label_id - 1] = label
        pixels = read_pixels(image)
        return PILImage.fromarray(draw_boxes(pixels, self.boxes, ids, self.scores.tolist(), names))

    def _select(self, indices: slice | Sequence[int] | npt.NDArray[Any]) -> Detections:
        return Detections(
            labels=self.labels[indices],
            label_ids=self.label_ids[indices],
            scores=self.scores[indices],
            boxes=self.boxes[indices],
        )


def min_scores(
    config: Mapping[str, object], classes: tuple[str, ...], checkpoint: str
) -> npt.NDArray[np.float32]:
    """Read the operating points of a checkpoint: the lowest score of each class that people look at.

    Args:
        config: the config.json of the checkpoint.
        classes: K names, in label order.
        checkpoint: the name of the checkpoint in an error.

    Returns:
        (K,) float32 scores; `DEFAULT_MIN_SCORE` for a class without an operating point.

    Raises:
        ValueError: `operating_points` does not map these classes to scores.
    """
    points = config.get("operating_points")
    if points is None:
        points = {}
    if isinstance(points, Mapping) and set(points) <= set(classes):
        scores = [DEFAULT_MIN_SCORE if (p := points.get(name)) is None else p for name in classes]
        if all(is_score(score) for score in scores):
            return np.array(scores, np.float32)
    raise ValueError(
        f"{checkpoint}: operating_points in config.json is {str(points)[:80]}: expected scores for classes"
        f" among {', '.join(classes)[:200]}. Remove it from config.json, or give min_score."
    )


def is_score(value: object) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
