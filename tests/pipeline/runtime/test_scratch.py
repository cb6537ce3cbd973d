"""The temporary folder of a job: checked first, deleted last, and swept after a job that was killed."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.runtime.scratch import check_temporary_folder, scratch_folder
from tests.pipeline.small_disk import small_disk


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KB in memory."""
    with small_disk(tmp_path / "full", "64k") as folder:
        yield folder


def test_a_full_temporary_folder_is_refused(full: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python would use /tmp without a word, but Ray would not."""
    monkeypatch.setenv("TMPDIR", str(full))
    with pytest.raises(
        UserError, match=r"full: has 0\.1 MiB of free space, but a job needs 16 MiB"
    ):
        check_temporary_folder()


def test_a_read_only_temporary_folder_is_refused(
    full: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(["mount", "-o", "remount,ro,size=64m", str(full)], check=True)
    monkeypatch.setenv("TMPDIR", str(full))
    with pytest.raises(UserError, match="cannot be written to \\(Read-only file system\\)"):
        check_temporary_folder()


def test_a_quota_that_is_used_up_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file system has room, but this user may not take it. Here: by the limit of the size of a file."""
    code = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000));"
        "from pipeline.runtime.cli import main; from dataclasses import dataclass\n"
        "@dataclass(frozen=True)\nclass Config: pass\n"
        "main(Config, print, '', command='job', arguments=[])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: the temporary folder {tmp_path}: cannot be written to")
    assert done.stderr.count("\n") == 1


def test_a_folder_that_does_not_exist_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "none"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert check_temporary_folder().is_dir()


def test_the_folders_of_killed_jobs_are_deleted_and_those_of_running_jobs_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for name in ("killed", "running"):
        (tmp_path / f"fastrcnn-ray-{name}").mkdir()
        (tmp_path / f"fastrcnn-ray-{name}" / "lock").touch()
    (tmp_path / "fastrcnn-ray-of-the-user").mkdir()
    with open(tmp_path / "fastrcnn-ray-running" / "lock", "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with scratch_folder() as folder:
            here = {path.name for path in tmp_path.iterdir()}
            assert here == {folder.name, "fastrcnn-ray-running", "fastrcnn-ray-of-the-user"}
            with scratch_folder() as other:  # a second job on this machine
                assert folder.is_dir()
                assert other != folder
    assert not folder.exists()
