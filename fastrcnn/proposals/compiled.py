"""Where compiled code is kept: compiled once a node and version of these files, loaded by every process.

Compiling takes some 20 s of a core and 300 MB, loading one second. What is kept depends on the CPU and is
found by it, so nodes of several kinds may share a folder.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import importlib
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import llvmlite.binding  # type: ignore[import-untyped]
import numba

_config: Any = numba.config
_SOURCES = ("compiled", "grouping", "kernels", "regions", "segmentation")
_READY = "ready"


@functools.cache
def cache_folder() -> Path:
    """Folder for this machine's code: under NUMBA_CACHE_DIR, else under the temporary folder.

    Numba itself notices a change in the file of an entry only, and looks for what it kept by the file's path,
    so the name is a hash of all `_SOURCES`, their path, the CPU and numba. What it loads are pickles: a
    temporary folder that others could write is not used, but a new one of this process.
    """
    own = Path(__file__).parent
    digest = hashlib.sha256()
    for source in _SOURCES:
        digest.update((own / f"{source}.py").read_bytes())
    cpu = llvmlite.binding.get_host_cpu_name() + llvmlite.binding.get_host_cpu_features().flatten()
    digest.update(f"{own} {cpu} {_config.CPU_NAME} {numba.__version__}".encode())
    name = f"fastrcnn-{digest.hexdigest()[:16]}"
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    parent = Path(chosen) if chosen else Path(tempfile.gettempdir(), f"fastrcnn-{os.getuid()}")
    try:
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not chosen:
            _check_private(parent)
        (parent / name).mkdir(mode=0o700, exist_ok=True)
    except OSError:
        return Path(tempfile.mkdtemp(prefix="fastrcnn-"))
    return parent / name


def _check_private(folder: Path) -> None:
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise PermissionError(f"{folder} is not this user's alone")


def entry(*signatures: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile a function for these argument types now, or load it: without the GIL, with the cache.

    Entries are few: what they call is compiled into them and has no files of its own.
    """

    def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
        before = _config.CACHE_DIR
        _config.CACHE_DIR = str(cache_folder())  # read here only; other users of numba keep theirs
        try:
            made: Callable[..., Any] = numba.njit(list(signatures), nogil=True, cache=True)(
                function
            )
        finally:
            _config.CACHE_DIR = before
        return made

    return compiled


@functools.cache
def kernels() -> ModuleType:
    """The compiled entries. Of processes that start at once on a new node one compiles, the others wait."""
    folder = cache_folder()
    if (folder / _READY).exists():
        return importlib.import_module("fastrcnn.proposals.kernels")
    with (folder / "lock").open("w") as lock:
        fcntl.flock(
            lock, fcntl.LOCK_EX
        )  # the system frees it when the process ends, however it ends
        module = importlib.import_module("fastrcnn.proposals.kernels")
        (folder / _READY).touch()
    return module
