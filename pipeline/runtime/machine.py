"""Checks the limits of this machine before a job starts Ray on it."""

from __future__ import annotations

import os
import resource
import sys

import ray

from pipeline.errors import UserError
from pipeline.runtime import ending

LEAST_FILES = 1024
"""Open files that a job needs: Ray's processes take 300 on two CPUs. It is the default limit of Linux."""
_ENOUGH_FILES = 65536
LEAST_SHARED_BYTES = 256 * 2**20
"""Free space in /dev/shm that the objects of a small job need. Docker gives 64 MiB if it is not asked."""
SLOW_STORAGE = "RAY_OBJECT_STORE_ALLOW_SLOW_STORAGE"
"""Variable of Ray: objects may lie on a disk."""
SHARED_MEMORY = "/dev/shm"


def check_machine() -> None:
    """Check the limits, and raise the one on open files as far as this user may.

    Call it before the work. Without effect if Ray runs in this process already, unless this is a job.

    Raises:
        UserError: a limit is too low for Ray.
    """
    if ray.is_initialized() and not ending.is_guarded():
        return
    _check_open_files()
    if not joins():
        _check_shared_memory()


def joins() -> bool:
    """Return whether the environment names a cluster to join."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ or "RAY_ADDRESS" in os.environ


def _check_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    most = _ENOUGH_FILES if hard == unlimited else min(hard, _ENOUGH_FILES)
    if soft != unlimited and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = most
    if soft != unlimited and soft < LEAST_FILES:
        raise UserError(
            f"ulimit -n {soft}",
            f"the limit of open files is too low for Ray, which needs {LEAST_FILES}",
            "Give `ulimit -n 65536` in the shell that starts the job, or --ulimit nofile=65536 to Docker.",
        )


def _check_shared_memory() -> None:
    """Refuse a small /dev/shm: Ray would put all objects on the disk, or fail when it is full."""
    if sys.platform != "linux" or os.environ.get(SLOW_STORAGE) or not os.path.isdir(SHARED_MEMORY):
        return
    status = os.statvfs(SHARED_MEMORY)
    free = status.f_bavail * status.f_bsize
    if free < LEAST_SHARED_BYTES:
        raise UserError(
            SHARED_MEMORY,
            f"has {free / 2**20:.0f} MiB of free space, but Ray's objects need"
            f" {LEAST_SHARED_BYTES // 2**20} MiB or more",
            f"Give --shm-size=2g to Docker, or delete files there. With {SLOW_STORAGE}=1 Ray uses the disk.",
        )
