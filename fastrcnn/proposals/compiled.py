"""The cache of compiled code: each node compiles each version of these files once, and all processes load it.

Compilation takes about 20 s of one core and 300 MB; loading takes one second. Compiled code depends on the
CPU, and so does its folder's name. So nodes with different CPUs may share a file system. It does not depend
on where the files lie: every job that is submitted to a cluster has its own copy of them.
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
from numba.core.caching import CacheImpl, _CacheLocator

_config: Any = numba.config
_SOURCES = ("compiled", "edges", "grouping", "kernels", "regions", "segmentation")
_READY = "ready"
_LOCATORS = [f"{kind.__module__}.{kind.__qualname__}" for kind in CacheImpl._locator_classes]
"""The kinds of locators that numba itself tries."""


@functools.cache
def cache_folder() -> Path:
    """Create and return the folder for this machine's compiled code.

    It lies under NUMBA_CACHE_DIR, or else under the user's cache folder (XDG_CACHE_HOME or ~/.cache). It must
    outlive a job, whose temporary folder is deleted at its end. Its name is a hash of all `_SOURCES`, the CPU
    and numba's version. The reason: numba itself notices changes only in the file of an entry, not in the
    files that it imports.

    Cached code contains pickles. So if other users can write into the default folder, or if there is none,
    this process uses a new folder instead.
    """
    digest = hashlib.sha256()
    for source in _SOURCES:
        digest.update(Path(__file__).with_name(f"{source}.py").read_bytes())
    cpu = llvmlite.binding.get_host_cpu_name() + llvmlite.binding.get_host_cpu_features().flatten()
    digest.update(f"{cpu} {_config.CPU_NAME} {numba.__version__}".encode())
    name = f"fastrcnn-{digest.hexdigest()[:16]}"
    from_user = os.environ.get("NUMBA_CACHE_DIR")
    try:
        parent = Path(from_user) if from_user else _user_folder()
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not from_user:
            _check_private(parent)
        (parent / name).mkdir(mode=0o700, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: this user has no home
        return Path(tempfile.mkdtemp(prefix="fastrcnn-"))
    return parent / name


def _user_folder() -> Path:
    """Return the folder for caches of this package."""
    caches = os.environ.get("XDG_CACHE_HOME")
    return Path(caches if caches else Path.home() / ".cache", "fastrcnn-ray")


def _check_private(folder: Path) -> None:
    """Raise PermissionError unless only this user can write into the folder."""
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise PermissionError(f"{folder}: expected a folder that only this user can write into")


class Locator(_CacheLocator):
    """Tells numba where the cached code of an entry is: in `cache_folder`, wherever its file lies."""

    def __init__(self, line: int) -> None:
        self._line = line

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> Locator | None:
        """Make the locator of a function of this package.

        None: numba uses the next kind of locator. It may ask for a function of another thread's, or the
        folder may be one that this user cannot write into.
        """
        locator = cls(py_func.__code__.co_firstlineno)
        try:
            is_ours = Path(py_file).samefile(Path(__file__).with_name(Path(py_file).name))
            locator.ensure_cache_path()  # type: ignore[no-untyped-call]  # numba has no types
        except OSError:
            return None
        return locator if is_ours else None

    def get_cache_path(self) -> str:
        """Return the folder."""
        return str(cache_folder())

    def get_source_stamp(self) -> str:
        """Return what changes with the sources: the name of the folder has their hash."""
        return cache_folder().name

    def get_disambiguator(self) -> str:
        """Return what tells two functions of one name apart."""
        return str(self._line)


def entry(*signatures: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate an entry: a compiled function that Python code calls.

    The function is compiled for the given argument types when its module is imported, or loaded from the
    cache. It releases the GIL. There are only a few entries. The functions that they call are compiled into
    them and have no files in the cache.
    """

    def compile_entry(function: Callable[..., Any]) -> Callable[..., Any]:
        before = _config.CACHE_LOCATOR_CLASSES
        # numba reads the setting in `njit`. Other code may use numba too, even in another thread meanwhile.
        # So the other kinds follow, and the setting is restored.
        others = [before] if before else _LOCATORS
        _config.CACHE_LOCATOR_CLASSES = ",".join([f"{__name__}.{Locator.__name__}", *others])
        try:
            jit = numba.njit(list(signatures), nogil=True, cache=True)
            compiled: Callable[..., Any] = jit(function)
        finally:
            _config.CACHE_LOCATOR_CLASSES = before
        return compiled

    return compile_entry


@functools.cache
def kernels() -> ModuleType:
    """Return the module of the compiled entries.

    If several processes start at once on a new node, one of them compiles and the others wait.
    """
    folder = cache_folder()
    if (folder / _READY).exists():
        return importlib.import_module("fastrcnn.proposals.kernels")
    with (folder / "lock").open("w") as lock:
        # The operating system releases the lock when the process ends, even if it is killed.
        fcntl.flock(lock, fcntl.LOCK_EX)
        module = importlib.import_module("fastrcnn.proposals.kernels")
        (folder / _READY).touch()
    return module
