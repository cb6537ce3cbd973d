"""Uploads and downloads whole folders, with many requests at a time."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import UserError
from pipeline.runtime.prefetch import in_threads
from pipeline.storage.listing import list_objects
from pipeline.storage.local import LocalStore
from pipeline.storage.objects import read_bytes, write_bytes
from pipeline.storage.uris import absolute, join


def upload_folder(local: Path, uri: str) -> None:
    """Write every file under `local` below `uri`, with the same subfolders. Raises `StorageError`."""
    files = sorted(path for path in local.rglob("*") if path.is_file())

    def upload(path: Path) -> None:
        write_bytes(join(uri, path.relative_to(local).as_posix()), path.read_bytes())

    in_threads(upload, files)


def download_folder(uri: str, local: Path) -> None:
    """Copy every object below `uri` into `local`, with the same subfolders.

    Raises:
        UserError: `uri` holds no object, or a key would be written outside `local`.
        StorageError: an object could not be read.
    """
    prefix = absolute(uri).rstrip("/") + "/"
    top = local.resolve()
    store = LocalStore("")

    def download(key: str) -> None:
        target = (top / key.removeprefix(prefix)).resolve()
        if not key.startswith(prefix) or not target.is_relative_to(top):
            raise UserError(key, f"would be written outside {local}", "Rename the object.")
        store.write(str(target), read_bytes(key))

    in_threads(download, [info.uri for info in list_objects(prefix)])
