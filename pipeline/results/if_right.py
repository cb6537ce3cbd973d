"""Average precision if the first N suspects were right. It stands beside the measured AP, never instead."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from fastrcnn.metrics import ImageDetections, ImageGroundTruth, evaluate_coco, evaluate_voc
from pipeline.errors import UserError
from pipeline.results.corrections import by_image, corrected
from pipeline.results.image_matching import find_matches

WARNING = (
    "a guess, not a measurement: it takes the first suspects for true without looking at them, and they come"
    " from detections. Judge them, and evaluate on corrected labels"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class IfRight:
    """Mean average precision if the labels were wrong as the first suspects say."""

    table: str
    """The --suspects."""
    first: int
    """Suspects of the table that are taken for right."""
    applied: Mapping[str, int]
    """Changes of labels of the evaluated images, by kind."""
    voc07: float
    voc10: float
    coco: float

    def as_json(self) -> dict[str, object]:
        """Give the entry `if_suspects_are_right` of metrics.json."""
        means = {name: getattr(self, name) for name in ("voc07", "voc10", "coco")}
        return {
            "note": WARNING,
            "suspects": self.table,
            "first": self.first,
            "labels_changed": dict(self.applied),
            **{k: None if math.isnan(v) else v for k, v in means.items()},
        }

    def __str__(self) -> str:
        changed = ", ".join(f"{n} {kind}" for kind, n in self.applied.items()) or "none"
        return (
            f"if the first {self.first} suspects of {self.table} were right ({changed} in these images): mAP"
            f" VOC07 {self.voc07:.4f}, VOC10 {self.voc10:.4f}, COCO AP {self.coco:.4f}. This is {WARNING}"
        )


def if_right(
    suspects: pa.Table,
    uri: str,
    first: int,
    truth: Sequence[ImageGroundTruth],
    detections: Sequence[ImageDetections],
    uris: Sequence[str],
    classes: Sequence[str],
) -> IfRight:
    """Evaluate against labels that are changed as the first suspects say.

    Args:
        suspects: SUSPECTS, by rank.
        uri: where the table is from.
        first: take so many suspects for right.
        truth, detections, uris: of each image, in one order.
        classes: K names.

    Raises:
        UserError: no suspect is of these images, so that the table belongs to other labels.
    """
    rows = by_image(suspects.slice(0, first).to_pylist())
    whole = by_image(suspects.select(["image_uri"]).to_pylist())
    known = list(whole)
    matches = find_matches(uris, known)
    if known and all(match is None for match in matches):
        raise UserError(
            f"--suspects {uri}",
            f"is about other images, such as {known[0]}",
            "Give the table of the labels that are evaluated: the same --data and --split.",
        )
    applied: Counter[str] = Counter()
    changed = []
    for image, match in zip(truth, matches, strict=True):
        of_image = rows.get(known[match], []) if match is not None else []
        image, count = corrected(image, of_image, classes)
        applied += count
        changed.append(image)
    number = len(classes)
    return IfRight(
        table=uri,
        first=min(first, suspects.num_rows),
        applied=dict(sorted(applied.items())),
        voc07=evaluate_voc(changed, detections, number, method="voc07").mean_ap,
        voc10=evaluate_voc(changed, detections, number, method="area").mean_ap,
        coco=evaluate_coco(changed, detections, number).ap,
    )
