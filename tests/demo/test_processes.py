from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from demo.processes import (
    CommandError,
    background,
    descendants,
    end,
    free_port,
    run,
    wait_for_port,
)

CHECKOUT = Path(__file__).resolve().parents[2]
# Processes like Ray's: a child, one in a new session, and one that ignores SIGTERM.
FAMILY = "setsid sleep 300 & sh -c 'trap \"\" TERM; sleep 300; sleep 300' & sleep 300"


def wait_for_family(pid: int, size: int) -> set[tuple[int, str]]:
    deadline = time.monotonic() + 20
    while len(descendants(pid)) < size and time.monotonic() < deadline:
        time.sleep(0.05)
    return descendants(pid)


def running(family: set[tuple[int, str]]) -> set[int]:
    """Give the ids of processes that run. A zombie does not run."""
    stats = {pid: Path(f"/proc/{pid}/stat") for pid, _ in family}
    return {
        pid
        for pid, stat in stats.items()
        if stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"
    }


def test_a_server_ends_with_all_its_descendants(tmp_path: Path) -> None:
    with background(["sh", "-c", FAMILY], tmp_path / "log") as process:
        family = wait_for_family(process.pid, 4)
        assert len(family) == 4
        assert len(running(family)) == 4
    assert process.returncode == -signal.SIGTERM
    assert running(family) == set()


def test_a_server_ends_if_the_body_raises(tmp_path: Path) -> None:
    def fail() -> None:
        with background(["sleep", "300"], tmp_path / "log") as process:
            processes.append(process)
            raise KeyError("body")

    processes: list[subprocess.Popen[bytes]] = []
    with pytest.raises(KeyError, match="body"):
        fail()
    assert processes[0].returncode == -signal.SIGTERM


def test_ending_leaves_other_processes_alone(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "300"]) as other:
        process = subprocess.Popen(["sh", "-c", FAMILY])
        wait_for_family(process.pid, 4)
        end(process)
        assert other.poll() is None
        other.kill()


def test_ending_an_ended_process_does_nothing() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    end(process)
    assert process.returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process adopt orphans")
def test_orphans_are_ended_too() -> None:
    script = (
        "import os, subprocess, time\n"
        "from demo.processes import adopt_orphans, descendants, end_all\n"
        "adopt_orphans()\n"
        "subprocess.run(['sh', '-c', 'setsid sleep 300 & '])\n"  # its parent has ended
        "family = descendants(os.getpid())\n"
        "end_all(family)\n"
        "print(len(family), len(descendants(os.getpid())))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=CHECKOUT, check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == ["1", "0"]


def test_a_signal_unwinds_the_stack_once() -> None:
    script = (
        "import signal, sys, time\n"
        "from demo.processes import end_on_signals\n"
        "end_on_signals()\n"
        "try:\n"
        "    print('ready', flush=True); time.sleep(60)\n"
        "finally:\n"
        "    print('cleaning', flush=True); time.sleep(1); print('clean', flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "cleaning\n"
        process.send_signal(signal.SIGINT)  # a second signal changes nothing
        assert process.stdout.read() == "clean\n"
    assert process.returncode == 128 + signal.SIGTERM


def test_a_command_is_printed_with_its_output_and_logged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log"
    script = "echo one; echo; echo chatter; echo 'two words' >&2"
    run(["sh", "-c", script], log, cwd=tmp_path, leave_out=re.compile("ch.*r$"))
    assert log.read_text() == "one\n\nchatter\ntwo words\n"
    assert capsys.readouterr().out.splitlines()[1:] == ["    one", "    two words"]


def test_a_failing_command_is_named_with_its_code_and_log(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"`sh -c 'exit 3'` exited with 3; .*/log"):
        run(["sh", "-c", "exit 3"], tmp_path / "log", cwd=tmp_path)


def test_a_server_that_ends_at_once_is_reported_without_waiting(tmp_path: Path) -> None:
    started = time.monotonic()
    with background(["false"], tmp_path / "log") as process:
        process.wait()
        with pytest.raises(CommandError, match="false ended at once; see .*/log"):
            wait_for_port(free_port(), process, tmp_path / "log", 60)
    assert time.monotonic() - started < 10


def test_a_server_that_never_listens_is_reported_in_time(tmp_path: Path) -> None:
    port = free_port()
    with background(["sleep", "300"], tmp_path / "log") as process:
        with pytest.raises(CommandError, match=f"nothing listens on port {port} after 0.5 s"):
            wait_for_port(port, process, tmp_path / "log", 0.5)


def test_this_process_has_no_descendants_left() -> None:
    # Ray and moto of other tests may run in this process; processes of this file may not.
    names = [
        Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]
        for pid, _ in descendants(os.getpid())
    ]
    assert b"sleep" not in names
