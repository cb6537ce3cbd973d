"""The measures of an evaluation: as arrays, as tables for the log, and as metrics.json."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import numpy as np
import numpy.typing as npt

from fastrcnn.metrics import (
    MOST_DETECTIONS,
    AtScore,
    COCOResult,
    Matches,
    OperatingPoint,
    Reliability,
    ScoreQuality,
    Shift,
    VOCResult,
    at_score,
    best_thresholds,
)
from pipeline.config import EvaluateConfig
from pipeline.results.if_right import IfRight

FORMAT_VERSION = 1
"""Format of metrics.json."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationResult:
    """The measures of a scoring run on one split. Arrays per class are in the order of `classes`.

    Args:
        run_id: the scoring run.
        model_id: the detector of the run.
        classes: names of the K evaluated classes.
        images_by_status: the number of images of the split, by the status of their newest row. An image with
            another status than `ok` counts as an image without detections.
        num_detections: detections of the evaluated classes in the images of the split.
        voc07: average precision as the mean over eleven recalls (VOC 2007 to 2009).
        voc10: average precision as the area under the curve (VOC 2010 and later).
        coco: average precision of COCO, over IoU .5 to .95.
        most_detections: detections of a class in an image that `coco` uses: 100, or more with tiles.
        at_half: precision and recall at score .5, and the calibration error of the scores, over all classes.
        image_uris: the scored images of the split, in its order.
        matches: which detections and objects belong together, at IoU .5. Images are those of `image_uris`.
        points: the operating points of each class on this split.
    """

    run_id: str
    model_id: str
    classes: tuple[str, ...]
    images_by_status: dict[str, int]
    num_detections: int
    voc07: VOCResult
    voc10: VOCResult
    coco: COCOResult
    most_detections: int
    at_half: ScoreQuality
    image_uris: tuple[str, ...]
    matches: Matches
    points: tuple[OperatingPoint, ...]
    reliability: Reliability | None
    """The scores of each class against what is right. None for the margins of an SVM."""
    shifts: tuple[Shift, ...] | None = None
    """Classes whose scores differ from those that the checkpoint was calibrated on. None: not known."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Labelled objects that were not evaluated, by class: the detector does not have it."""
    if_right: IfRight | None = None
    """What average precision would be if some suspects were right. None without --suspects."""

    @property
    def at_best(self) -> AtScore:
        """Counts at the best F1 of each class, over all classes."""
        return at_score(self.matches, best_thresholds(self.points))


def format_table(result: EvaluationResult) -> str:
    """Format the number of objects and the average precisions of each class, and the means, as a table."""
    width = max(5, *(len(name) for name in result.classes))
    columns = (result.voc07.ap, result.voc10.ap, result.coco.ap_per_class)
    means = (result.voc07.mean_ap, result.voc10.mean_ap, result.coco.ap)
    lines = [f"{'class':<{width}}  {'objects':>7}  {'VOC07':>6}  {'VOC10':>6}  {'COCO':>6}"]
    for k, name in enumerate(result.classes):
        cells = "  ".join(f"{_format_ap(column[k]):>6}" for column in columns)
        lines.append(f"{name:<{width}}  {result.voc07.num_gt[k]:>7}  {cells}")
    cells = "  ".join(f"{_format_ap(mean):>6}" for mean in means)
    return "\n".join([*lines, f"{'mean':<{width}}  {result.voc07.num_gt.sum():>7}  {cells}"])


def _format_ap(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"


def format_points(result: EvaluationResult) -> str:
    """Format the operating points of each class, and precision, recall and F1 at the best F1, as a table."""
    width = max(5, *(len(name) for name in result.classes))
    lines = [
        "operating points, IoU >= .5",
        f"{'class':<{width}}  {'kind':<9}  {'score':>6}  {'prec.':>6}  {'recall':>6}  {'F1':>6}",
    ]
    for point in result.points:
        numbers = (point.threshold, point.precision, point.recall, point.f1)
        cells = "  ".join(f"{_format_ap(number):>6}" for number in numbers)
        lines.append(f"{result.classes[point.label - 1]:<{width}}  {point.kind:<9}  {cells}")
    best = result.at_best
    cells = "  ".join(f"{_format_ap(n):>6}" for n in (best.precision, best.recall, best.f1))
    return "\n".join([*lines, f"{'all':<{width}}  {'best_f1':<9}  {'':>6}  {cells}"])


CURVE_BINS = 5
"""Bins of the reliability curve in the log. metrics.json has all bins."""


def format_reliability(result: EvaluationResult) -> str:
    """Format the calibration error of each class, and the share of right boxes by score, as a table."""
    if result.reliability is None:
        return "calibration error: the scores are margins of an SVM, not probabilities"
    few = result.reliability.merged(CURVE_BINS)
    width = max(5, *(len(name) for name in result.classes))
    heads = [f"{k / CURVE_BINS:.1f}-{(k + 1) / CURVE_BINS:.1f}" for k in range(CURVE_BINS)]
    lines = [
        "calibration error, and share of right boxes by score, IoU >= .5",
        f"{'class':<{width}}  {'boxes':>7}  {'error':>6}  {'  '.join(f'{h:>7}' for h in heads)}",
    ]
    errors = result.reliability.errors.tolist()
    for name, error, boxes, right in zip(result.classes, errors, few.boxes, few.right, strict=True):
        shares = (
            f"{r / n:>7.3f}" if n else f"{'-':>7}"
            for r, n in zip(right.tolist(), boxes.tolist(), strict=True)
        )
        head = f"{name:<{width}}  {boxes.sum():>7}  {_format_ap(error):>6}"
        lines.append(f"{head}  {'  '.join(shares)}")
    return "\n".join(lines)


def reliability_json(result: EvaluationResult) -> dict[str, object] | None:
    """Give errors and curves by class. A point of a curve: mean score, share of right boxes, boxes."""
    measured = result.reliability
    if measured is None:
        return None
    curves = {}
    rows = zip(result.classes, measured.scores, measured.right, measured.boxes, strict=True)
    for name, scores, right, boxes in rows:
        curves[name] = [
            [round(s / n, 5), round(r / n, 5), n]
            for s, r, n in zip(scores.tolist(), right.tolist(), boxes.tolist(), strict=True)
            if n
        ]
    errors = map(_or_none, measured.errors.tolist())
    return {
        "bins": measured.boxes.shape[1],
        "calibration_error": dict(zip(result.classes, errors, strict=True)),
        "curve": curves,
    }


def metrics(result: EvaluationResult, config: EvaluateConfig) -> dict[str, object]:
    """Return the content of metrics.json. A measure without ground truth is null."""

    def by_class(values: npt.NDArray[np.float64]) -> dict[str, float | None]:
        return dict(zip(result.classes, map(_or_none, values.tolist()), strict=True))

    coco = asdict(result.coco)
    per_class = coco.pop("ap_per_class")
    return {
        "format_version": FORMAT_VERSION,
        "run_id": result.run_id,
        "model_id": result.model_id,
        "scored": config.scored,
        "data": config.annotations or (config.data if len(config.data) > 1 else config.data[0]),
        "split": config.split,
        "images_by_status": result.images_by_status,
        "num_images": sum(result.images_by_status.values()),
        "num_detections": result.num_detections,
        "num_objects": dict(zip(result.classes, result.voc07.num_gt.tolist(), strict=True)),
        "voc07": {"mean_ap": _or_none(result.voc07.mean_ap), "ap": by_class(result.voc07.ap)},
        "voc10": {"mean_ap": _or_none(result.voc10.mean_ap), "ap": by_class(result.voc10.ap)},
        "coco": {name: _or_none(value) for name, value in coco.items()}
        | {"ap_per_class": by_class(per_class)}
        | (
            {}
            if result.most_detections == MOST_DETECTIONS
            else {"max_dets": result.most_detections}
        ),
        "at_half": result.at_half.as_json(),
        "at_best_f1": {
            name: _or_none(getattr(result.at_best, name)) for name in ("precision", "recall", "f1")
        },
        "reliability": reliability_json(result),
        **({} if result.if_right is None else {"if_suspects_are_right": result.if_right.as_json()}),
    }


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
