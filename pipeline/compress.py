"""A trained detector with truncated fc6 and fc7, not retrained, as another checkpoint (section 3.1)."""

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
    """Write the compressed checkpoint, weights before config.

    Raises:
        UserError: no whole checkpoint, ranks that its layers do not have, or an output that is taken.
    """
    given = checkpoints.find_checkpoint(config.checkpoint)
    try:
        checkpoint = checkpoints.load(given)
        model = compress(checkpoint.model, config.fc6_rank, config.fc7_rank)
    except (CheckpointError, StorageError) as error:
        raise UserError(f"--checkpoint {given}", str(error), "Give a whole checkpoint.") from error
    except ValueError as error:
        ranks = f"--fc6-rank {config.fc6_rank} --fc7-rank {config.fc7_rank}"
        raise UserError(ranks, str(error), "Give lower ranks, or a whole head.") from error
    before, after = (_count(m.head.fc6) + _count(m.head.fc7) for m in (checkpoint.model, model))
    logger.info("weights of fc6 and fc7: %d, were %d (%.1f%%)", after, before, 100 * after / before)
    if storage.exists(storage.join(config.output, CONFIG)):
        raise UserError(f"--output {config.output}", "holds a checkpoint", "Give another one.")
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
