"""Processes the demo starts, each ended with every process that came from it.

Only processes that descend from ours are ever signalled, by their id and start time: never by name.
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
    """A command of the demo failed; the text says which, how, and where its output is."""


def end_on_signals() -> None:
    """Let Ctrl-C, SIGTERM and SIGHUP unwind the stack once, so that every `finally` is run."""

    def stop(number: int, frame: FrameType | None) -> None:
        for other in SIGNALS:
            signal.signal(other, signal.SIG_IGN)  # cleaning up is not to be interrupted
        raise SystemExit(128 + number)

    for number in SIGNALS:
        signal.signal(number, stop)


def adopt_orphans() -> None:
    """Make processes below this one ours when their parent dies, so that `descendants` sees them."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def free_port() -> int:
    """A loopback TCP port that nothing listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def background(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server with its output in `log`, ended with all its descendants on leaving the context.

    It has a session of its own: Ctrl-C in the terminal reaches only the demo, which then ends it.
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
    """Run a command as a person would type it: shown, its output shown and kept in `log`.

    Args:
        leave_out: lines that it matches are kept in `log` only.

    Raises:
        CommandError: it exited with another code than 0.
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
    """Return when something listens on the loopback port.

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
    """End a child and its descendants: politely, and by SIGKILL what is there `patience` s later."""
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
    """End processes, given as `descendants` gives them; return when they are gone."""
    for number, seconds in ((None, 2.0), (signal.SIGTERM, 3.0), (signal.SIGKILL, 10.0)):
        for pid, _ in _alive(family):
            if number is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
        deadline = time.monotonic() + seconds
        while _alive(family) and time.monotonic() < deadline:
            time.sleep(0.1)
    if left := _alive(family):
        raise CommandError(f"processes {sorted(pid for pid, _ in left)} could not be ended")


def descendants(pid: int) -> set[tuple[int, str]]:
    """(process id, start time) of every running process below `pid`, without itself."""
    table = _process_table()
    found: set[int] = set()
    layer = {pid}
    while layer:
        layer = {child for child, (parent, _) in table.items() if parent in layer} - found
        found |= layer
    return {(child, table[child][1]) for child in found}


def _alive(family: set[tuple[int, str]]) -> set[tuple[int, str]]:
    return family & {(pid, started) for pid, (_, started) in _process_table().items()}


def _process_table() -> dict[int, tuple[int, str]]:
    """Process id -> (its parent's, start time), of all running processes; zombies left out."""
    if not Path("/proc/self/stat").exists():
        return _process_table_of_ps()
    table = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = path.read_text(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended since the listing
        # proc(5): after the name, which may hold anything, come state, parent, .. and 22, the start.
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
