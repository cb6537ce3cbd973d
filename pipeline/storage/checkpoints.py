"""Checkpoints at URIs: found, loaded, put. The format itself is `fastrcnn.checkpoint`'s."""

from __future__ import annotations

import tempfile
from pathlib import Path

from fastrcnn.checkpoint import CONFIG, WEIGHTS, Checkpoint, load_checkpoint
from pipeline import storage
from pipeline.errors import UserError


def find_checkpoint(uri: str) -> str:
    """The folder with config.json: `uri` itself, or its `checkpoint/` (the --output of a training run).

    Raises:
        UserError: neither.
    """
    for folder in (uri, storage.join(uri, "checkpoint")):
        if storage.exists(storage.join(folder, "config.json")):
            return storage.absolute(folder)  # the workers stand in another folder
    raise UserError(
        f"--checkpoint {uri}",
        "holds no config.json, neither itself nor in checkpoint/",
        "Give a checkpoint folder or the --output of jobs/train.py.",
    )


def load(checkpoint: str) -> Checkpoint:
    """Download a checkpoint, its two files and no more, and load it.

    Raises:
        fastrcnn.checkpoint.CheckpointError: it is not whole.
    """
    with tempfile.TemporaryDirectory(prefix="checkpoint-") as folder:
        for name in (CONFIG, WEIGHTS):
            try:
                data = storage.read_bytes(storage.join(checkpoint, name))
            except storage.ObjectMissing:
                continue  # said below, with what else is wrong
            (Path(folder) / name).write_bytes(data)
        return load_checkpoint(Path(folder))


def put(folder: Path, uri: str) -> None:
    """Write the checkpoint in a local folder to `uri`: the config last, for it says that all is there."""
    for name in (WEIGHTS, CONFIG):
        storage.write_bytes(storage.join(uri, name), (folder / name).read_bytes())
