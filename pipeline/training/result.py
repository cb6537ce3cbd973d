"""The result of a finished training: the best checkpoint and what was measured, written to the output."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import ray.train

from fastrcnn.checkpoint import CONFIG
from pipeline import storage
from pipeline.config import TrainConfig
from pipeline.drawing.curves import loss_curves
from pipeline.errors import JobError, UserError
from pipeline.storage import checkpoints
from pipeline.training.board import failures_as_warnings
from pipeline.training.finish import Finished
from pipeline.training.job import TrainJob
from pipeline.training.state import STATE
from pipeline.training.stored_run import read_object

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """The result of a finished training, stored in result.json."""

    checkpoint: str
    """URI of the best checkpoint."""
    num_iterations: int
    val_map: float | None = None
    """VOC07 mAP of that checkpoint on the validation split. None without a validation split."""
    val_map50_95: float | None = None
    """The same, over IoU .5 to .95."""


def read_result(config: TrainConfig) -> TrainResult | None:
    """Read the result of a finished run in this --output; None if there is none.

    Raises:
        UserError: result.json cannot be used.
    """
    uri = storage.join(config.output, "result.json")
    if not storage.exists(uri):
        return None
    stored = read_object(uri)
    values = {f.name: stored[f.name] for f in fields(TrainResult) if f.name in stored}
    try:
        # Another version may have written fewer or more fields.
        return TrainResult(**values)
    except TypeError as error:
        raise UserError(
            uri, f"is not the result of a training ({error})", "Give another --output."
        ) from error


def export(
    config: TrainConfig,
    result: ray.train.Result,
    job: TrainJob,
    metric: str,
    finishing: Callable[..., Finished],
) -> TrainResult:
    """Copy the best checkpoint to <output>/checkpoint; write metrics.json, curves.png, advice.md and
    result.json.

    Args:
        finishing: `finish`, without the checkpoint and the history.

    The weights are copied before config.json: where config.json exists, the checkpoint is complete.
    """
    best = result.get_best_checkpoint(metric, "max")
    latest = result.checkpoint
    if best is None or latest is None:
        raise JobError("training ended without a checkpoint. Run the same command to resume.")
    with latest.as_directory() as folder:
        state = json.loads((Path(folder) / STATE).read_text())
    checkpoint = storage.join(config.output, "checkpoint")
    with best.as_directory() as folder:
        finished = finishing(Path(folder), history=state["validations"])
        checkpoints.put(Path(folder), checkpoint, finished.config)
        metrics = json.loads((Path(folder) / CONFIG).read_text())["training"]["metrics"]
    curves = {"steps": state["history"], "validations": state["validations"]}
    curves["final"] = finished.metrics
    advice = storage.join(config.output, "advice.md")
    storage.write_bytes(advice, finished.advice.encode())
    storage.write_bytes(
        storage.join(config.output, "metrics.json"), json.dumps(curves, indent=1).encode()
    )
    with failures_as_warnings("curves.png"):
        storage.write_bytes(storage.join(config.output, "curves.png"), loss_curves(curves))
    outcome = TrainResult(
        checkpoint=checkpoint,
        num_iterations=state["iteration"],  # fewer than planned if --patience ended the run
        val_map=metrics.get("val_map"),
        val_map50_95=metrics.get("val_map50_95"),
    )
    storage.write_bytes(
        storage.join(config.output, "result.json"), json.dumps(asdict(outcome)).encode()
    )
    logger.info(
        "best checkpoint: iteration %d, in %s%s",
        metrics["iteration"],
        checkpoint,
        _map_text(outcome),
    )
    return outcome


def _map_text(outcome: TrainResult) -> str:
    """Say how good the best checkpoint is; nothing without validation."""
    if outcome.val_map is None:
        return ""
    text = f", validation mAP (VOC07) {outcome.val_map:.4f}"
    if outcome.val_map50_95 is None:  # validated by an earlier version
        return text
    return f"{text}, over IoU .5 to .95 {outcome.val_map50_95:.4f}"
