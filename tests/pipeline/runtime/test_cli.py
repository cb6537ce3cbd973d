"""The last line and the exit code of a job."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import ClassVar

import duckdb
import pytest
import ray
from ray.exceptions import OutOfDiskError

from fastrcnn import __version__
from pipeline.errors import JobError, ObjectUnreachable, UserError
from pipeline.runtime.cli import main
from pipeline.runtime.flags import Folder, Group, Groups, Uri
from pipeline.storage import ObjectUnreadable


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """No flags."""


def ends(error: Exception, monkeypatch: pytest.MonkeyPatch, *, worker: bool = False) -> object:
    """Return the exit code of a job that raises `error`."""

    def run(_: Config) -> None:
        raise error

    def run_in_a_worker(_: Config) -> None:
        @ray.remote
        def work() -> None:
            raise error

        ray.get(work.remote())

    monkeypatch.setattr(sys, "argv", ["job"])
    with pytest.raises(SystemExit) as stop:
        main(Config, run_in_a_worker if worker else run, "")
    return stop.value.code


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (
            UserError("--data x", "is not there", "Give another."),
            2,
            "error: --data x: is not there.",
        ),
        (JobError("too many"), 1, "failed: too many"),
        (ObjectUnreadable("s3://b/a: no answer"), 1, "failed: s3://b/a: no answer"),
    ],
)
def test_an_error_gives_one_line_and_an_exit_code(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    code: int,
    line: str,
) -> None:
    assert ends(error, monkeypatch) == code
    assert capsys.readouterr().err.startswith(line)


def raised_from(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


UNANSWERED = ObjectUnreachable("s3://b/a: SlowDown (gave up after 9 attempts in 118 s)")
AGAIN = "Run the same command again: it continues"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UNANSWERED, f"failed: {UNANSWERED}. {AGAIN}\n"),
        # A caller took it for a fault of the object.
        (
            raised_from(
                UserError("--checkpoint s3://b/a", "is broken", "Give another."), UNANSWERED
            ),
            f"failed: {UNANSWERED}. {AGAIN}\n",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device", "/tmp/x"),
            "failed: [Errno 28] No space left on device: '/tmp/x'. Free space",
        ),
        (OSError(errno.EMFILE, "Too many open files"), "failed: [Errno 24] Too many open files"),
        # pyarrow gives the text without the number
        (OSError("Error writing bytes: No space left on device"), "failed: Error writing bytes"),
        (
            duckdb.IOException('IO Error: Could not write "x": No space left on device'),
            "failed: IO Error",
        ),
        (
            raised_from(
                RuntimeError("while it wrote"), OSError(errno.EDQUOT, "Disk quota exceeded")
            ),
            "failed: while it wrote. Free space",
        ),
        (OutOfDiskError("the objects"), "failed: "),
    ],
)
def test_an_outage_or_a_full_disk_is_one_line_and_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, line: str
) -> None:
    assert ends(error, monkeypatch) == 1
    err = capsys.readouterr().err
    assert err.startswith(line)
    assert AGAIN in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "error",
    [FileNotFoundError(errno.ENOENT, "No such file"), ValueError("No space left on device")],
)
def test_a_bug_is_raised(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    with pytest.raises(type(error)):
        ends(error, monkeypatch)


@pytest.mark.usefixtures("ray_cluster")
def test_a_user_error_in_a_worker_exits_with_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The store failed after the start. The same command may work later, so the exit code is 1."""
    error = UserError("s3://b/plans/1", "cannot be reached", "Check the endpoint.")
    assert ends(error, monkeypatch, worker=True) == 1
    err = capsys.readouterr().err
    assert err.startswith("failed: s3://b/plans/1: cannot be reached. Check the endpoint.")
    assert err.count("\n") == 1


@pytest.mark.usefixtures("ray_cluster")
def test_a_bug_in_a_worker_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZeroDivisionError):
        ends(ZeroDivisionError(), monkeypatch, worker=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """Flags that name places."""

    output: Uri
    """Where results go."""
    folder: Folder | None = None
    """A folder of this machine."""
    run_id: str | None = None
    """A run."""

    GROUPS: ClassVar[Groups] = (Group(title="All", common=("folder", "run_id")),)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--output", ""], "error: --output '': expected a path or a URI"),
        (["--output", "  "], "error: --output ' ': expected a path or a URI"),
        (["--output", "s3://"], "error: --output 's3://': expected a path or a URI"),
        (["--output", "x", "--folder", ""], "error: --folder '': expected a path or a URI"),
        (["--output", "x", "--run-id", ""], "error: --run-id '': expected a text"),
    ],
)
def test_an_empty_place_is_refused_before_the_job_runs(
    capsys: pytest.CaptureFixture[str], words: list[str], line: str
) -> None:
    """An empty output would be the root of the file system."""
    with pytest.raises(SystemExit) as stop:
        main(Places, pytest.fail, "", command="job", arguments=words)
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith(line)


@pytest.mark.parametrize("output", ["results", "./results", "file://results", "a:b"])
def test_a_relative_output_of_a_submitted_job_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], output: str
) -> None:
    """It would lie in Ray's copy of the working directory."""
    words = ["--output", output]
    ran: list[object] = []
    main(Places, ran.append, "", command="job", arguments=words, guarded=False)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(SystemExit) as stop:
        main(Places, pytest.fail, "", command="job", arguments=words)
    assert (stop.value.code, len(ran)) == (2, 1)
    assert capsys.readouterr().err.startswith(f"error: --output {output}: is relative")


@pytest.mark.parametrize("output", ["s3://b/out", "/shared/out", "file:///shared/out", "~/out"])
def test_other_outputs_of_a_submitted_job_are_used(
    monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    ran: list[object] = []
    words = ["--output", output]
    main(Places, ran.append, "", command="job", arguments=words, guarded=False)
    assert len(ran) == 1


@pytest.mark.parametrize("words", [["score", "--version"], ["--version"]])
def test_every_command_shows_the_version(words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *words], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"fastrcnn-ray {__version__}\n"


def test_help_into_a_closed_pipe_ends_quietly() -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "pipeline", "help"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")
