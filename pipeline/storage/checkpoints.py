"""Finds, loads and writes checkpoints at URIs. The file format is defined in `fastrcnn.checkpoint`."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastrcnn.checkpoint import CONFIG, WEIGHTS, Checkpoint, config_bytes, load_checkpoint
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


def check_free(output: str) -> None:
    """Check that a folder for a new checkpoint is empty, or holds only what an interrupted `put` left.

    Raises:
        UserError: it holds a checkpoint, or other files: a checkpoint would be hard to tell from these.
    """
    if storage.exists(storage.join(output, CONFIG)):
        raise UserError(f"--output {output}", "already holds a checkpoint", "Give another folder.")
    folder = storage.absolute(output).rstrip("/") + "/"
    pages = storage.iter_pages(folder, missing_ok=True)
    names = (info.uri.removeprefix(folder) for page in pages for info in page)
    other = next((name for name in names if name not in (WEIGHTS, "")), None)
    if other is not None:
        raise UserError(
            f"--output {output}",
            f"holds other files, such as {other}; a checkpoint has a folder to itself",
            f"Give a new folder, such as {storage.join(output, 'checkpoint')}.",
        )


def put(folder: Path, uri: str, config: Mapping[str, Any] | None = None) -> None:
    """Write the checkpoint in a local folder to `uri`. The config is last: it marks a complete checkpoint.

    Args:
        config: content of config.json, if it is not the one in the folder.
    """
    data = (folder / CONFIG).read_bytes() if config is None else config_bytes(config)
    storage.write_bytes(storage.join(uri, WEIGHTS), (folder / WEIGHTS).read_bytes())
    storage.write_bytes(storage.join(uri, CONFIG), data)


def copy(uri: str, output: str, config: Mapping[str, Any]) -> None:
    """Write the checkpoint at `uri` to `output`, with other content of config.json and the same weights."""
    weights = storage.read_bytes(storage.join(uri, WEIGHTS))
    storage.write_bytes(storage.join(output, WEIGHTS), weights)
    storage.write_bytes(storage.join(output, CONFIG), config_bytes(config))
