"""Truncates fc6 and fc7 of a trained detector by SVD, without training again (paper, section 3.1)."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

from torch import nn

from fastrcnn.checkpoint import CONFIG, CheckpointError, save_checkpoint
from fastrcnn.svd import compress
from pipeline import storage
from pipeline.config.tools import CompressConfig
from pipeline.errors import UserError
from pipeline.storage import StorageError, checkpoints

logger = logging.getLogger(__name__)


def run(config: CompressConfig) -> None:
    """Write the compressed checkpoint: first its weights, then its config.

    Raises:
        UserError: the checkpoint is not complete, a rank is too high for its layer, or the output already
            holds a checkpoint.
    """
    given = checkpoints.find_checkpoint(config.checkpoint)
    try:
        checkpoint = checkpoints.load(given)
        model = compress(checkpoint.model, config.fc6_rank, config.fc7_rank)
    except (CheckpointError, StorageError) as error:
        raise UserError(
            f"--checkpoint {given}", str(error), "Give a complete checkpoint."
        ) from error
    except ValueError as error:
        ranks = f"--fc6-rank {config.fc6_rank} --fc7-rank {config.fc7_rank}"
        raise UserError(
            ranks, str(error), "Give lower ranks, or a detector that is not truncated."
        ) from error
    before, after = (_count(m.head.fc6) + _count(m.head.fc7) for m in (checkpoint.model, model))
    logger.info(
        "fc6 and fc7 have %d weights after truncation and had %d before (%.1f%%)",
        after,
        before,
        100 * after / before,
    )
    if storage.exists(storage.join(config.output, CONFIG)):
        raise UserError(
            f"--output {config.output}", "already holds a checkpoint", "Give another folder."
        )
    if config.dry_run:
        return
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(
            Path(folder),
            model,
            classes=checkpoint.classes,
            proposals=checkpoint.proposals,
            training=checkpoint.config["training"] | {"compressed_from": checkpoint.model_id},
        )
        checkpoints.put(Path(folder), config.output)
    logger.info("wrote %s", config.output)


def _count(layer: nn.Module) -> int:
    return sum(parameter.numel() for parameter in layer.parameters())
