"""Measures the boxes of a scoring run against labels: VOC and COCO average precision, precision and recall at
score .5 and at the best F1, the calibration error of the scores, and what is right, wrong and missed.

Needs no Ray: threads of this process read the Parquet files of `scored/` and the labels. Images are matched
by URI and classes by name, so the detector and the data set may number the classes differently.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from fastrcnn.metrics import (
    MOST_DETECTIONS,
    evaluate_coco,
    evaluate_voc,
    match_boxes,
    operating_points,
    reliability,
    score_quality,
)
from pipeline import storage
from pipeline.annotations import LabelledImages
from pipeline.annotations.reader import LabelSet, read_sets
from pipeline.annotations.rules import LabelRules
from pipeline.config import EvaluateConfig
from pipeline.config.checks import MOST_DETECTIONS as MOST_OF_AN_IMAGE
from pipeline.config.checks import renames
from pipeline.drawing.curves import draw_precision_recall
from pipeline.errors import UserError
from pipeline.results.if_right import if_right
from pipeline.results.image_matching import match_images
from pipeline.results.joined import detections_of, ground_truth, log_problems, upright
from pipeline.results.measures import (
    EvaluationResult,
    format_points,
    format_reliability,
    format_table,
    metrics,
)
from pipeline.results.operating import write_tables
from pipeline.results.run_config import AP_NEEDS, read_run_config
from pipeline.results.scored import RunFiles, ScoredRun, find_run, read_run
from pipeline.results.shifts import log_shifts, shifts_of
from pipeline.results.suspects_table import read_suspects

__all__ = ["EvaluationResult", "format_table", "measure", "run"]

logger = logging.getLogger(__name__)


def run(config: EvaluateConfig) -> EvaluationResult:
    """Compare a scoring run with labels, log a table, and write metrics.json, pr_curves.png and three tables.

    Raises:
        UserError: there is no run, or several and no --run-id; the split is empty; a labelled image was not
            scored or matches several scored images; or the detector does not know a labelled class.
    """
    files = find_run(config.scored, config.run_id)
    output = config.output or storage.join(files.root, "evaluation", files.run_id)
    storage.check_writable(output)
    result = measure(config, files)
    if config.dry_run:
        logger.info("--dry-run: nothing written")
    else:
        _write(result, config, output)
    return result


def measure(
    config: EvaluateConfig, files: RunFiles, *, leave_out_unknown: bool = False
) -> EvaluationResult:
    """Compare a scoring run with labels and log a table. Writes nothing.

    Args:
        leave_out_unknown: leave out objects of classes that the detector does not know, with a warning, and
            evaluate all of its classes. Otherwise such an object is an error.

    Raises:
        UserError: for the same reasons as `run`.
    """
    suspects = None if config.suspects is None else read_suspects(config.suspects)
    labelled = _labels(config)
    uris = [image.image_uri for image in labelled.images]
    scored = read_run(files, {storage.basename(uri) for uri in uris})
    classes, left_out = scored.classes, dict[str, int]()
    if leave_out_unknown:
        left_out = _left_out(labelled, classes)
    else:
        classes = _evaluated_classes(config, labelled, classes)
    numbers = match_images(uris, scored.rows["image_uri"].to_pylist(), f"run {files.run_id}")
    rows = scored.rows.take(pa.array(numbers, pa.int64()))  # one row per labelled image, same order

    truth = ground_truth(upright(labelled, rows), classes)
    detections = detections_of(rows, classes)
    matches = match_boxes(truth, detections, len(classes))
    most = _most_detections(rows)
    result = EvaluationResult(
        run_id=files.run_id,
        model_id=scored.model_id,
        classes=classes,
        images_by_status=dict(Counter(rows["status"].to_pylist()).most_common()),
        num_detections=sum(len(image.boxes) for image in detections),
        voc07=evaluate_voc(truth, detections, len(classes), method="voc07"),
        voc10=evaluate_voc(truth, detections, len(classes), method="area"),
        coco=evaluate_coco(truth, detections, len(classes), most_detections=most),
        most_detections=most,
        at_half=score_quality(matches),
        image_uris=tuple(rows["image_uri"].to_pylist()),
        matches=matches,
        left_out=left_out,
        points=operating_points(
            matches,
            len(classes),
            at_precision=config.at_precision,
            at_recall=config.at_recall,
        ),
        reliability=reliability(matches, len(classes)),
        shifts=shifts_of(files, detections, scored.classes) if classes == scored.classes else None,
        if_right=None
        if suspects is None
        else if_right(
            suspects,
            str(config.suspects),
            config.first,
            truth,
            detections,
            rows["image_uri"].to_pylist(),
            classes,
        ),
    )
    _log(result, scored)
    _warn_of_cut(files)
    return result


def _labels(config: EvaluateConfig) -> LabelledImages:
    """Read the labels, and log what is wrong with them."""
    sets = [LabelSet.open(uri, images_at) for uri, images_at in config.label_sets]
    labelled = read_sets(
        [(one, config.split) for one in sets],
        limit=config.limit,
        rules=LabelRules(on_bad_label=config.on_bad_label, rename=renames(config.rename)),
    )
    log_problems(labelled.problems)
    log_problems([f"{one.text}; {one.done}" for one in labelled.bad])
    return labelled


def _evaluated_classes(
    config: EvaluateConfig, labelled: LabelledImages, detector_classes: tuple[str, ...]
) -> tuple[str, ...]:
    """Return the classes in --classes, or else all classes of the detector.

    Raises:
        UserError: --classes names a class that the detector does not know; or, without --classes, a labelled
            object has such a class.
    """
    unknown = [name for name in config.classes if name not in detector_classes]
    if unknown:
        raise UserError(
            f"--classes {' '.join(unknown)}",
            "the detector does not have this class",
            f"Expected some of its classes: {', '.join(detector_classes)}.",
        )
    if config.classes:
        return config.classes
    for image in labelled.images:
        for label in image.gt_labels.tolist():
            name = labelled.classes[label - 1]
            if name not in detector_classes:
                raise UserError(
                    f"class {name!r} in {image.annotation_uri}",
                    f"the detector has only the classes {', '.join(detector_classes)}",
                    "Give --classes with the classes to evaluate, or score with a detector of this class.",
                )
    return detector_classes


def _left_out(labelled: LabelledImages, classes: Sequence[str]) -> dict[str, int]:
    """Count the objects of classes that the detector does not have, and warn of them."""
    counts = Counter(
        labelled.classes[label - 1]
        for image in labelled.images
        for label in image.gt_labels.tolist()
    )
    unknown = {name: n for name, n in counts.most_common() if name not in classes}
    if unknown:
        logger.warning(
            "%d labelled objects are left out, because the detector does not have their classes (%s)",
            sum(unknown.values()),
            ", ".join(f"{name}: {n}" for name, n in unknown.items()),
        )
    return unknown


def _most_detections(rows: pa.Table) -> int:
    """Return how many detections of a class in an image COCO's measures use.

    A run with tiles has as many for each tile and for the whole image as another run has for the image.
    """
    most_tiles = pc.max(rows["num_tiles"]).as_py() or 0
    return min(MOST_DETECTIONS * (most_tiles + 1), MOST_OF_AN_IMAGE)


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
    if result.most_detections != MOST_DETECTIONS:
        logger.info(
            "the run has tiles, so COCO's measures use up to %d detections of a class in an image, not %d",
            result.most_detections,
            MOST_DETECTIONS,
        )
    logger.info("scores: %s", result.at_half)
    logger.info("%s", format_points(result))
    logger.info("%s", format_reliability(result))
    log_shifts(result.shifts or (), result.classes, result.run_id)
    if result.if_right is not None:
        logger.warning("%s", result.if_right)


def _warn_of_cut(files: RunFiles) -> None:
    """Warn if the run lacks boxes with low scores, so that its average precision is too low."""
    cut = read_run_config(files).cut
    if cut is not None:
        logger.warning(
            "run %s has no boxes with a score below %g. Average precision and recall are too low: they need"
            " the boxes from %g on, before calibration. Score again with a lower --score-threshold, or"
            " without it",
            files.run_id,
            cut,
            AP_NEEDS,
        )


def _write(result: EvaluationResult, config: EvaluateConfig, output: str) -> None:
    text = json.dumps(metrics(result, config), indent=1, ensure_ascii=False, allow_nan=False)
    title = f"{config.split}: mAP {result.voc07.mean_ap:.3f} (VOC07), IoU ≥ 0.5"
    picture = draw_precision_recall(result.voc07, result.classes, title)
    with storage.driver_errors(output):
        storage.write_bytes(storage.join(output, "metrics.json"), f"{text}\n".encode())
        storage.write_bytes(storage.join(output, "pr_curves.png"), picture)
        tables = write_tables(
            output,
            result.points,
            result.matches,
            result.image_uris,
            result.classes,
            {b"run_id": result.run_id.encode(), b"model_id": result.model_id.encode()},
        )
    logger.info("wrote metrics.json, pr_curves.png, %s to %s", ", ".join(tables), output)
