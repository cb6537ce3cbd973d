"""The limits of a machine: refused before the work where Ray could not run, and no false alarm."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.runtime import machine

CHECK = "from pipeline.runtime.machine import check_machine; check_machine(); import resource;"
CHECK += "print(*resource.getrlimit(resource.RLIMIT_NOFILE))"


def check(limits: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", f"{limits}; exec {sys.executable} -c '{CHECK}'"],
        capture_output=True,
        text=True,
    )


def test_few_open_files_are_refused() -> None:
    done = check("ulimit -n 256")
    assert "UserError: ulimit -n 256: the limit of open files is too low for Ray" in done.stderr


@pytest.mark.parametrize("limits", ["ulimit -S -n 256", "ulimit -S -n 1024", "ulimit -n 1024", ":"])
def test_a_low_limit_that_may_be_raised_is_raised(limits: str) -> None:
    done = check(limits)
    soft, hard = map(int, done.stdout.split())
    assert soft == min(hard, 65536)
    assert soft >= 1024


def shared_memory(free_mib: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let /dev/shm have this much free space."""
    values = (4096, 4096, 10**7, free_mib * 256, free_mib * 256, 0, 0, 0, 0, 255)
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result(values))


def test_the_shared_memory_of_a_plain_container_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shared_memory(64, monkeypatch)
    with pytest.raises(
        UserError, match="/dev/shm: has 64 MiB of free space, .* Give --shm-size=2g"
    ):
        machine._check_shared_memory()
    monkeypatch.setenv("RAY_OBJECT_STORE_ALLOW_SLOW_STORAGE", "1")
    machine._check_shared_memory()


@pytest.mark.parametrize("free_mib", [256, 1024, 8192])
def test_enough_shared_memory_is_accepted(free_mib: int, monkeypatch: pytest.MonkeyPatch) -> None:
    shared_memory(free_mib, monkeypatch)
    machine._check_shared_memory()


def test_a_system_without_shared_memory_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "SHARED_MEMORY", str(tmp_path / "none"))
    machine._check_shared_memory()


def test_the_driver_of_a_cluster_needs_no_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A submitted job, or one with RAY_ADDRESS, puts its objects into the cluster."""
    shared_memory(1, monkeypatch)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    machine.check_machine()
    monkeypatch.delenv("RAY_ADDRESS")
    with pytest.raises(UserError, match="/dev/shm"):
        machine.check_machine()
