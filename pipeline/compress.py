"""Truncates fc6 and fc7 of a trained detector by SVD, without training again (paper, section 3.1)."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from fastrcnn.checkpoint import CONFIG, CheckpointError, save_checkpoint
from fastrcnn.svd import compress
from pipeline import storage
from pipeline.config.tools import CompressConfig
from pipeline.errors import UserError
from pipeline.storage import StorageError, checkpoints

logger = logging.getLogger(__name__)

PAPER_RANKS, PAPER_WIDTH = (1024, 256), 4096
"""Singular values of fc6 and fc7 that the paper keeps, and the width of these layers (section 4.4). Layers of
another width keep the same shares."""


def run(config: CompressConfig) -> None:
    """Write the compressed checkpoint: first its weights, then its config.

    Raises:
        UserError: the checkpoint is not complete, a rank is too high for its layer, or the output holds a
            checkpoint or other files.
    """
    storage.check_writable(config.output)
    folder_uri = checkpoints.find_checkpoint(config.checkpoint)
    try:
        checkpoint = checkpoints.load(folder_uri)
        width = checkpoint.model.config.fc_dim
        fc6_rank = config.fc6_rank or max(1, width * PAPER_RANKS[0] // PAPER_WIDTH)
        fc7_rank = config.fc7_rank or max(1, width * PAPER_RANKS[1] // PAPER_WIDTH)
        model = compress(checkpoint.model, fc6_rank, fc7_rank)
    except (CheckpointError, StorageError) as error:
        raise UserError(
            f"--checkpoint {folder_uri}", str(error), "Give a complete checkpoint."
        ) from error
    except ValueError as error:
        ranks = f"--fc6-rank {fc6_rank} --fc7-rank {fc7_rank}"
        raise UserError(
            ranks, str(error), "Give lower ranks, or a detector that is not truncated."
        ) from error
    before, after = (
        _num_weights(m.head.fc6) + _num_weights(m.head.fc7) for m in (checkpoint.model, model)
    )
    logger.info(
        "fc6 keeps %d and fc7 %d of %d singular values: %d weights after truncation, %d before (%.1f%%)",
        fc6_rank,
        fc7_rank,
        width,
        after,
        before,
        100 * after / before,
    )
    checkpoints.check_free(config.output)
    if config.dry_run:
        return
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(
            Path(folder),
            model,
            classes=checkpoint.classes,
            proposals=checkpoint.proposals,
            preprocessing=checkpoint.config.get("preprocessing"),
            training=checkpoint.config["training"] | {"compressed_from": checkpoint.model_id},
        )
        checkpoints.put(Path(folder), config.output, _with_points(Path(folder), checkpoint.config))
    logger.info("wrote %s", config.output)


def _with_points(folder: Path, before: Mapping[str, Any]) -> dict[str, Any]:
    """Give the content of config.json in a folder, with the operating points of another checkpoint.

    Like the calibration, they stay: truncation changes scores little.
    """
    config: dict[str, Any] = json.loads((folder / CONFIG).read_text())
    kept = {name: before[name] for name in ("operating_points",) if name in before}
    return config | kept


def _num_weights(layer: nn.Module) -> int:
    return sum(parameter.numel() for parameter in layer.parameters())
