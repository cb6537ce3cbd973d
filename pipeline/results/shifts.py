"""Compares the scores of a run with those of the images that its checkpoint was calibrated on.

The measure is in `fastrcnn.metrics.score_shift`. A checkpoint holds the scores of its calibration as
`training.calibration.scores` in its config.json, and a run keeps a copy of that file.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fastrcnn.metrics import ImageDetections, ScoreHistogram, Shift, find_shifts, histogram_of
from fastrcnn.metrics.score_shift import histogram_of_json, sum_scores
from pipeline.errors import UserError
from pipeline.record import open_shard
from pipeline.results.run_config import read_run_config
from pipeline.results.scored import RunFiles
from pipeline.runtime.prefetch import in_threads
from pipeline.schema import SCORED, read_columns
from pipeline.storage import StorageError

logger = logging.getLogger(__name__)

MOST_SHARDS = 32
"""Shards that are read to see the scores of a run. They lie evenly in it."""
CURE = (
    "Scores may not mean what they say on these images. Draw some with jobs/sample.py, label them, and run"
    " jobs/calibrate.py --sample on the checkpoint"
)


def calibrated_scores(
    checkpoint: Mapping[str, Any], classes: Sequence[str]
) -> ScoreHistogram | None:
    """Read the scores of the calibration from a checkpoint's config.json. None: it has none.

    Args:
        classes: of the run.
    """
    model, training = checkpoint.get("model"), checkpoint.get("training")
    if not isinstance(model, Mapping) or not model.get("calibration"):
        return None
    calibration = training.get("calibration") if isinstance(training, Mapping) else None
    scores = calibration.get("scores") if isinstance(calibration, Mapping) else None
    if not isinstance(scores, Mapping):
        return None
    try:
        return histogram_of_json(scores, len(classes))
    except ValueError as error:
        logger.warning("the scores of the calibration in config.json cannot be used: it %s", error)
        return None


def shifts_of(
    files: RunFiles, detections: Sequence[ImageDetections], classes: Sequence[str]
) -> tuple[Shift, ...] | None:
    """Compare the scores of some images of a run with those of its calibration.

    Args:
        detections: of these images, with labels 1..K of `classes`.
        classes: of the run.

    Returns:
        None: the checkpoint does not hold the scores of its calibration.
    """
    calibrated = calibrated_scores(read_run_config(files).checkpoint, classes)
    if calibrated is None:
        return None
    return tuple(find_shifts(histogram_of(detections, len(classes)), calibrated))


def shifts_of_run(
    uris: Sequence[str], checkpoint: Mapping[str, Any], classes: Sequence[str]
) -> tuple[Shift, ...] | None:
    """Compare the scores of a whole run, or of a part of a large one, with those of its calibration.

    Rows that a newer row replaced count too: they are few.

    Args:
        uris: its shards, by name.
        checkpoint: its config.json.
        classes: of the run.

    Returns:
        None: the checkpoint does not hold the scores of its calibration.
    """
    calibrated = calibrated_scores(checkpoint, classes)
    if calibrated is None or not uris:
        return None
    places = np.linspace(0, len(uris) - 1, min(len(uris), MOST_SHARDS)).astype(int)
    some = [uris[place] for place in sorted(set(places.tolist()))]
    parts = in_threads(lambda uri: _read(uri, len(classes)), some)
    return tuple(find_shifts(_sum(parts), calibrated))


def warn_of_shifts(
    uris: Sequence[str], run_id: str, checkpoint: Mapping[str, Any], classes: Sequence[str]
) -> None:
    """Warn at the end of a scoring job if its images look unlike those of the calibration.

    The run is complete, so a shard that cannot be read now is only logged.

    Args:
        uris: the shards of the run, by name.
        run_id: the run.
        checkpoint: its config.json.
        classes: of the run.
    """
    try:
        shifts = shifts_of_run(uris, checkpoint, classes)
    except (StorageError, UserError) as error:
        logger.warning("the scores were not compared with those of the calibration: %s", error)
        return
    log_shifts(shifts or (), classes, run_id)


def _sum(parts: Iterable[ScoreHistogram]) -> ScoreHistogram:
    parts = list(parts)
    return ScoreHistogram(
        images=sum(part.images for part in parts), weights=np.sum([p.weights for p in parts], 0)
    )


def _read(uri: str, num_classes: int) -> ScoreHistogram:
    with open_shard(uri) as (file, _, _):
        rows = read_columns(file, [SCORED.field("status"), SCORED.field("detections")])
    column = rows["detections"].combine_chunks()
    flat = pc.list_flatten(column)
    labels, scores = (
        pc.struct_field(flat, name).to_numpy(zero_copy_only=False) for name in ("label_id", "score")
    )
    weights = sum_scores(labels, scores, num_classes)
    ok = pc.equal(rows["status"].cast(pa.string()), "ok")
    return ScoreHistogram(images=int(pc.sum(ok).as_py() or 0), weights=weights)


def log_shifts(shifts: Sequence[Shift], classes: Sequence[str], run_id: str) -> None:
    """Warn of classes whose scores differ from those of the calibration."""
    if shifts:
        logger.warning("run %s: %s. %s", run_id, describe(shifts, classes), CURE)


def describe(shifts: Sequence[Shift], classes: Sequence[str]) -> str:
    """Say in words which scores differ."""
    words = [
        f"{classes[one.label - 1] if one.label else 'all classes together'} (shift {one.shift:.2f}, expected"
        f" below {one.limit:.2f}; mean score {one.mean_before:.2f} before, {one.mean_now:.2f} now)"
        for one in shifts
    ]
    return (
        "the images look unlike those that the scores were calibrated on: the scores differ for "
        + ", ".join(words)
    )
