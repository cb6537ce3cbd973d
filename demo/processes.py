"""Start processes and end them with all their descendants.

Only descendants of this process get signals. They are identified by process id and start time, never by name.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


class CommandError(Exception):
    """A command of the demo failed. The message says which command, how, and where its output is."""


def end_on_signals() -> None:
    """Let the first Ctrl-C, SIGTERM or SIGHUP raise SystemExit, so that every `finally` runs."""

    def stop(number: int, frame: FrameType | None) -> None:
        for other in SIGNALS:
            signal.signal(other, signal.SIG_IGN)  # further signals must not interrupt the clean-up
        raise SystemExit(128 + number)

    for number in SIGNALS:
        signal.signal(number, stop)


def adopt_orphans() -> None:
    """Adopt descendants whose parent dies, so that `descendants` still finds them (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def free_port() -> int:
    """Give a loopback TCP port that is free at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def background(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server with its output in `log`; end it with all its descendants when the context ends.

    It runs in a new session, so that Ctrl-C in the terminal reaches only the demo, which then ends the
    server.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        end(process)


def run(
    command: Sequence[str], log: Path, *, cwd: Path, leave_out: re.Pattern[str] | None = None
) -> None:
    """Print a command, run it, print its output and write it to `log`.

    Args:
        leave_out: lines that match are written to `log` only.

    Raises:
        CommandError: the exit code is not 0.
    """
    print(f"  $ {shlex.join(command)}", flush=True)
    with subprocess.Popen(
        command,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        try:
            assert process.stdout is not None
            with log.open("w") as output:
                for line in process.stdout:
                    output.write(line)
                    if line.strip() and not (leave_out and leave_out.match(line)):
                        print(f"    {line.rstrip()}", flush=True)
            code = process.wait()
        finally:
            end(process)
    if code != 0:
        raise CommandError(f"`{shlex.join(command)}` exited with {code}; its output is in {log}")


def wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path, seconds: float) -> None:
    """Wait until something listens on the loopback port.

    Raises:
        CommandError: the process ended, or the time is over.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise CommandError(f"{shlex.join(process.args)} ended at once; see {log}")  # type: ignore[arg-type]
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)
    raise CommandError(f"nothing listens on port {port} after {seconds:g} s; see {log}")


def end(process: subprocess.Popen[bytes] | subprocess.Popen[str], patience: float = 15) -> None:
    """End a child process and its descendants: by SIGTERM, and after `patience` seconds by SIGKILL."""
    family = descendants(process.pid)
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
    if process.poll() is None:
        process.kill()
        process.wait()
    end_all(family)


def end_all(family: set[tuple[int, str]]) -> None:
    """End the processes of a set from `descendants`, and wait until they are gone."""
    for number, seconds in ((None, 2.0), (signal.SIGTERM, 3.0), (signal.SIGKILL, 10.0)):
        for pid, _ in _alive(family):
            if number is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
        deadline = time.monotonic() + seconds
        while _alive(family) and time.monotonic() < deadline:
            time.sleep(0.1)
    if left := _alive(family):
        raise CommandError(f"processes {sorted(pid for pid, _ in left)} still run after SIGKILL")


def descendants(pid: int) -> set[tuple[int, str]]:
    """Give (process id, start time) of every running descendant of `pid`."""
    table = _process_table()
    pids: set[int] = set()
    layer = {pid}
    while layer:
        layer = {child for child, (parent, _) in table.items() if parent in layer} - pids
        pids |= layer
    return {(child, table[child][1]) for child in pids}


def _alive(family: set[tuple[int, str]]) -> set[tuple[int, str]]:
    return family & {(pid, started) for pid, (_, started) in _process_table().items()}


def _process_table() -> dict[int, tuple[int, str]]:
    """Give the table: process id -> (parent id, start time) of all running processes, without zombies."""
    if not Path("/proc/self/stat").exists():
        return _process_table_of_ps()
    table = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = path.read_text(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue  # the process has ended meanwhile
        # proc(5): the name, in parentheses, may hold any text. After it come state, parent, ...; field 22 is
        # the start time.
        fields = text.rpartition(")")[2].split()
        if fields[0] != "Z":
            table[int(path.parent.name)] = (int(fields[1]), fields[19])
    return table


def _process_table_of_ps() -> dict[int, tuple[int, str]]:
    listing = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid=,stat=,lstart="], check=True, capture_output=True, text=True
    ).stdout
    rows = (line.split(maxsplit=3) for line in listing.splitlines())
    return {int(row[0]): (int(row[1]), row[3]) for row in rows if not row[2].startswith("Z")}
