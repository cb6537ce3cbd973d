"""Finds, loads and writes checkpoints at URIs. The file format is defined in `fastrcnn.checkpoint`."""

from __future__ import annotations

import tempfile
from pathlib import Path

from fastrcnn.checkpoint import CONFIG, WEIGHTS, Checkpoint, load_checkpoint
from pipeline import storage
from pipeline.errors import UserError


def checkpoint_folder(uri: str) -> str | None:
    """Return the URI of the folder with config.json: `uri`, or `checkpoint/` in it. None: there is none."""
    for folder in (uri, storage.join(uri, "checkpoint")):
        if storage.exists(storage.join(folder, CONFIG)):
            return storage.absolute(folder)  # workers have another working directory
    return None


def find_checkpoint(uri: str) -> str:
    """Return the URI of the folder with config.json.

    It is `uri` itself, or the folder `checkpoint/` in it if `uri` is the --output of a training run.

    Raises:
        UserError: neither folder has a config.json.
    """
    folder = checkpoint_folder(uri)
    if folder is not None:
        return folder
    raise UserError(
        f"--checkpoint {uri}",
        "holds no config.json, neither directly nor in its folder checkpoint/",
        "Give a checkpoint folder or the --output of jobs/train.py.",
    )


def load(checkpoint: str) -> Checkpoint:
    """Download the two files of a checkpoint, and load it.

    Raises:
        fastrcnn.checkpoint.CheckpointError: a file is missing, incomplete or modified.
        StorageError: a file cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="checkpoint-") as folder:
        for name in (CONFIG, WEIGHTS):
            try:
                data = storage.read_bytes(storage.join(checkpoint, name))
            except storage.ObjectMissing:
                continue  # load_checkpoint reports the missing file
            (Path(folder) / name).write_bytes(data)
        return load_checkpoint(Path(folder))


def put(folder: Path, uri: str) -> None:
    """Write the checkpoint in a local folder to `uri`. The config is last: it marks a complete checkpoint."""
    for name in (WEIGHTS, CONFIG):
        storage.write_bytes(storage.join(uri, name), (folder / name).read_bytes())
