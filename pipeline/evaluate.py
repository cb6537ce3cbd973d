"""Measures the boxes of a scoring run against labels: VOC and COCO average precision.

Needs no Ray: threads of this process read the Parquet files of `scored/` and the labels. Images are matched
by URI and classes by name, so the detector and the data set may number the classes differently.
"""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fastrcnn.metrics import (
    COCOResult,
    ImageDetections,
    ImageGroundTruth,
    VOCResult,
    evaluate_coco,
    evaluate_voc,
)
from pipeline import storage
from pipeline.annotations import LabelledImages, read_labelled_images
from pipeline.config import EvaluateConfig
from pipeline.drawing.curves import draw_precision_recall
from pipeline.errors import UserError
from pipeline.results.image_matching import match_images
from pipeline.results.scored import RunFiles, ScoredRun, find_run, read_run

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
"""Format of metrics.json."""
_SHOWN_PROBLEMS = 20
"""Label problems that are logged one by one; the others are counted."""
_CORNERS = ("x_min", "y_min", "x_max", "y_max")


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
    """

    run_id: str
    model_id: str
    classes: tuple[str, ...]
    images_by_status: dict[str, int]
    num_detections: int
    voc07: VOCResult
    voc10: VOCResult
    coco: COCOResult


def run(config: EvaluateConfig) -> EvaluationResult:
    """Compare a scoring run with labels, log a table, and write metrics.json and pr_curves.png.

    Raises:
        UserError: there is no run, or several and no --run-id; the split is empty; a labelled image was not
            scored or matches several scored images; or the detector does not know a labelled class.
    """
    files = find_run(config.scored, config.run_id)
    result = measure(config, files)
    if config.dry_run:
        logger.info("--dry-run: nothing written")
    else:
        _write(result, config, config.output or _default_output(files.root, files.run_id))
    return result


def measure(config: EvaluateConfig, files: RunFiles) -> EvaluationResult:
    """Compare a scoring run with labels and log a table. Writes nothing.

    Raises:
        UserError: for the same reasons as `run`.
    """
    labelled = read_labelled_images(config.data, config.split, limit=config.limit)
    _log_problems(labelled.problems)
    uris = [image.image_uri for image in labelled.images]
    scored = read_run(files, {storage.basename(uri) for uri in uris})
    classes = _evaluated_classes(config, labelled, scored.classes)
    numbers = match_images(uris, scored.rows["image_uri"].to_pylist(), f"run {files.run_id}")
    rows = scored.rows.take(pa.array(numbers, pa.int64()))  # one row per labelled image, same order

    truth = _ground_truth(labelled, classes)
    detections = _detections(rows, classes)
    result = EvaluationResult(
        run_id=files.run_id,
        model_id=scored.model_id,
        classes=classes,
        images_by_status=dict(Counter(rows["status"].to_pylist()).most_common()),
        num_detections=sum(len(image.boxes) for image in detections),
        voc07=evaluate_voc(truth, detections, len(classes), method="voc07"),
        voc10=evaluate_voc(truth, detections, len(classes), method="area"),
        coco=evaluate_coco(truth, detections, len(classes)),
    )
    _log(result, scored)
    return result


def _log_problems(problems: Sequence[str]) -> None:
    for problem in problems[:_SHOWN_PROBLEMS]:
        logger.warning("%s", problem)
    if len(problems) > _SHOWN_PROBLEMS:
        logger.warning("... and %d more label problems", len(problems) - _SHOWN_PROBLEMS)


def _default_output(root: str, run_id: str) -> str:
    return storage.join(root, "evaluation", run_id)


def _evaluated_classes(
    config: EvaluateConfig, labelled: LabelledImages, known: tuple[str, ...]
) -> tuple[str, ...]:
    """Return the classes in --classes, or else all classes of the detector.

    Raises:
        UserError: --classes names a class that the detector does not know; or, without --classes, a labelled
            object has such a class.
    """
    unknown = [name for name in config.classes if name not in known]
    if unknown:
        raise UserError(
            f"--classes {' '.join(unknown)}",
            "the detector does not have this class",
            f"Expected some of its classes: {', '.join(known)}.",
        )
    if config.classes:
        return config.classes
    for image in labelled.images:
        for label in image.gt_labels.tolist():
            name = labelled.classes[label - 1]
            if name not in known:
                raise UserError(
                    f"class {name!r} in {image.annotation_uri}",
                    f"the detector has only the classes {', '.join(known)}",
                    "Give --classes with the classes to evaluate, or score with a detector of this class.",
                )
    return known


def _ground_truth(labelled: LabelledImages, classes: Sequence[str]) -> list[ImageGroundTruth]:
    """Return the objects of `classes` in each image. Label k means classes[k - 1]."""
    new_label = _label_table(labelled.classes, classes)
    images = []
    for image in labelled.images:
        labels = new_label[image.gt_labels - 1]
        keep = labels > 0
        images.append(
            ImageGroundTruth(
                boxes=image.gt_boxes[keep],
                labels=labels[keep],
                difficult=image.difficult[keep],
                crowd=image.crowd[keep],
            )
        )
    return images


def _detections(rows: pa.Table, classes: Sequence[str]) -> list[ImageDetections]:
    """Return the detections of `classes` in each row; none if the status of the row is not `ok`."""
    column = rows["detections"].combine_chunks()
    flat = pc.list_flatten(column)  # struct array, the detections of all rows
    names = pc.struct_field(flat, "label").dictionary_encode()
    new_label = _label_table(names.dictionary.to_pylist(), classes)
    labels = new_label[names.indices.to_numpy()]
    scores = pc.struct_field(flat, "score").to_numpy()
    boxes = np.stack([pc.struct_field(flat, name).to_numpy() for name in _CORNERS], axis=1)
    ends = np.cumsum(pc.fill_null(pc.list_value_length(column), 0).to_numpy())
    images = []
    for start, end in zip(np.append(0, ends), ends, strict=False):
        keep = start + np.flatnonzero(labels[start:end])
        images.append(ImageDetections(boxes=boxes[keep], labels=labels[keep], scores=scores[keep]))
    return images


def _label_table(names: Sequence[str], classes: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return the label of each name, (len(names),): 1..K, or 0 for a class that is not evaluated."""
    label = {name: k for k, name in enumerate(classes, 1)}
    return np.array([label.get(name, 0) for name in names], np.int64)


def _log(result: EvaluationResult, scored: ScoredRun) -> None:
    images = sum(result.images_by_status.values())
    logger.info(
        "run %s: %d labelled images, %d scored rows, %d objects, %d detections",
        result.run_id,
        images,
        scored.num_rows,
        int(result.voc07.num_gt.sum()),
        result.num_detections,
    )
    failed = images - result.images_by_status.get("ok", 0)
    if failed:
        logger.warning(
            "%d of %d images have no result (%s) and count as images without detections",
            failed,
            images,
            ", ".join(f"{s}: {n}" for s, n in result.images_by_status.items() if s != "ok"),
        )
    logger.info("average precision, IoU >= .5\n%s", format_table(result))
    logger.info("mAP VOC07 %.4f, VOC10 %.4f", result.voc07.mean_ap, result.voc10.mean_ap)
    coco = result.coco
    logger.info("COCO AP %.4f, AP50 %.4f, AP75 %.4f", coco.ap, coco.ap50, coco.ap75)


def format_table(result: EvaluationResult) -> str:
    """Format the number of objects and the average precisions of each class, and the means, as a table."""
    width = max(5, *(len(name) for name in result.classes))
    columns = (result.voc07.ap, result.voc10.ap, result.coco.ap_per_class)
    means = (result.voc07.mean_ap, result.voc10.mean_ap, result.coco.ap)
    lines = [f"{'class':<{width}}  {'objects':>7}  {'VOC07':>6}  {'VOC10':>6}  {'COCO':>6}"]
    for k, name in enumerate(result.classes):
        cells = "  ".join(f"{_cell(column[k]):>6}" for column in columns)
        lines.append(f"{name:<{width}}  {result.voc07.num_gt[k]:>7}  {cells}")
    cells = "  ".join(f"{_cell(mean):>6}" for mean in means)
    return "\n".join([*lines, f"{'mean':<{width}}  {result.voc07.num_gt.sum():>7}  {cells}"])


def _cell(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"


def _write(result: EvaluationResult, config: EvaluateConfig, output: str) -> None:
    text = json.dumps(_metrics(result, config), indent=1, ensure_ascii=False, allow_nan=False)
    title = f"{config.split}: mAP {result.voc07.mean_ap:.3f} (VOC07), IoU ≥ 0.5"
    picture = draw_precision_recall(result.voc07, result.classes, title)
    with storage.driver_errors(output):
        storage.write_bytes(storage.join(output, "metrics.json"), f"{text}\n".encode())
        storage.write_bytes(storage.join(output, "pr_curves.png"), picture)
    logger.info("wrote metrics.json and pr_curves.png to %s", output)


def _metrics(result: EvaluationResult, config: EvaluateConfig) -> dict[str, object]:
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
        "data": config.data,
        "split": config.split,
        "images_by_status": result.images_by_status,
        "num_images": sum(result.images_by_status.values()),
        "num_detections": result.num_detections,
        "num_objects": dict(zip(result.classes, result.voc07.num_gt.tolist(), strict=True)),
        "voc07": {"mean_ap": _or_none(result.voc07.mean_ap), "ap": by_class(result.voc07.ap)},
        "voc10": {"mean_ap": _or_none(result.voc10.mean_ap), "ap": by_class(result.voc10.ap)},
        "coco": {name: _or_none(value) for name, value in coco.items()}
        | {"ap_per_class": by_class(per_class)},
    }


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
