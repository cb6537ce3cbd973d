"""Signals end a job in one line: the exit code, nothing left in the temporary folder, no process left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from pipeline.runtime import ending
from pipeline.runtime.ending import descendants

CHECKOUT = Path(__file__).resolve().parents[3]
JOB = """
import os, signal, subprocess, sys, tempfile, threading, time
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN if number in {ignored} else signal.SIG_DFL)
from dataclasses import dataclass
from pipeline.runtime import ending
from pipeline.runtime.cli import main

@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    pass

def run(config):
    tempfile.mkdtemp()
    open(os.path.join(tempfile.gettempdir(), "file"), "wb").write(bytes(1000))
    # A child, a grandchild that ignores SIGTERM and writes into the folder, and one in a separate session.
    child = ("import subprocess, sys, signal, tempfile, time\\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\\n"
        "g = subprocess.Popen([sys.executable, '-c', 'import signal,tempfile,time;"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\\\\nwhile True: tempfile.mkdtemp(); time.sleep(.01)'],"
        " start_new_session=True)\\ntime.sleep(60)")
    subprocess.Popen([sys.executable, "-c", child])
    while len(ending.descendants(os.getpid())) < 3:
        time.sleep(.05)
    {body}

main(Config, run, "", command="job", arguments=[])
"""
BODIES = {
    "sleeping": "print('there', flush=True); time.sleep(60)",
    # Unwinding would wait for this thread for a minute.
    "in a pool": "from concurrent.futures import ThreadPoolExecutor\n"
    "    with ThreadPoolExecutor(1) as pool:\n"
    "        print('there', flush=True); pool.submit(time.sleep, 60).result()",
    # The handler of a signal in the main thread would not run.
    "in C": "import ctypes; print('there', flush=True)\n    while True: ctypes.CDLL(None).sleep(60)",
    # What the main thread catches and logs while the job ends is not shown.
    "catching": "print('there', flush=True)\n"
    "    while True:\n"
    "        try: time.sleep(.001); os.listdir(tempfile.gettempdir())\n"
    "        except OSError as error: print(error, file=sys.stderr, flush=True)",
    # As in `ray.init`: a handler of a library, installed from C, and a main thread that stays in C.
    "behind a handler": "import ctypes; libc = ctypes.CDLL(None); libc.signal(15, 0)\n"
    "    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
    "    print('there', flush=True); libc.sleep(60)",
    "without end": "print('there', flush=True)\n    while True: pass",
}


def start(tmp: Path, body: str, ignore: Sequence[signal.Signals] = ()) -> subprocess.Popen[str]:
    """Start a job that ignores these signals, as under `nohup`, and no others, even if the tests run so."""
    ignored = repr({int(number) for number in ignore})
    process = subprocess.Popen(
        [sys.executable, "-c", JOB.replace("{body}", body).replace("{ignored}", ignored)],
        cwd=CHECKOUT,
        env={**os.environ, "TMPDIR": str(tmp)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "there\n", process.communicate()
    return process


@pytest.mark.parametrize(
    ("number", "body"),
    [
        *((signal.SIGTERM, body) for body in BODIES),
        (signal.SIGINT, "sleeping"),
        (signal.SIGINT, "in C"),
        (signal.SIGHUP, "sleeping"),
    ],
)
def test_a_signal_ends_a_job_in_one_line_and_leaves_nothing(
    tmp_path: Path, number: signal.Signals, body: str
) -> None:
    process = start(tmp_path, BODIES[body])
    family = descendants(process.pid)
    assert len(family) == 3  # child, grandchild, and the filter of `pipeline.runtime.quiet`
    began = time.monotonic()
    process.send_signal(number)
    _, said = process.communicate(timeout=20)
    assert time.monotonic() - began < 5  # two seconds on a machine with nothing else to do
    assert process.returncode == 128 + number
    assert said == (
        f"stopped by {number.name}. What is written is whole; run the same command again to continue\n"
    )
    assert list(tmp_path.iterdir()) == []
    assert not [pid for pid in family if pid in ending._parents()]


def test_a_second_signal_changes_nothing(tmp_path: Path) -> None:
    process = start(tmp_path, BODIES["sleeping"])
    process.terminate()
    assert process.stderr is not None
    assert process.stderr.readline().startswith("stopped by SIGTERM.")
    for number in (signal.SIGINT, signal.SIGTERM):
        process.send_signal(number)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 143
    assert said == ""
    assert list(tmp_path.iterdir()) == []


def test_an_ignored_signal_stays_ignored(tmp_path: Path) -> None:
    process = start(tmp_path, BODIES["sleeping"], ignore=[signal.SIGHUP])
    process.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 143


def test_what_is_passed_to_at_end_is_called_but_cannot_delay_the_end(tmp_path: Path) -> None:
    called = tmp_path / "called"
    tmp = tmp_path / "tmp"
    tmp.mkdir()
    body = (
        f"guard = ending.at_end(lambda: (open({str(called)!r}, 'w'), time.sleep(60))); guard.__enter__()\n"
        "    print('there', flush=True); time.sleep(60)"
    )
    process = start(tmp, body)
    began = time.monotonic()
    process.terminate()
    process.communicate(timeout=20)
    assert time.monotonic() - began < 5
    assert called.exists()


def test_signals_end_the_processes_that_a_job_forks() -> None:
    """Ray starts its services with a function that runs after the fork, and ends them with SIGTERM.

    The job is another process, because a fork breaks the connections of a process that has joined Ray.
    """
    code = """
import subprocess
from pipeline.runtime import ending
with ending.guarded():
    child = subprocess.Popen(["sleep", "60"], preexec_fn=lambda: None)
    child.terminate()
    print(child.wait(20))
"""
    printed = subprocess.check_output([sys.executable, "-c", code], cwd=CHECKOUT, text=True)
    assert int(printed) == -signal.SIGTERM


def test_after_a_job_the_handlers_and_the_temporary_folder_are_as_before() -> None:
    before = [signal.getsignal(number) for number in ending.SIGNALS]
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    folder = tempfile.gettempdir()
    with ending.guarded():
        assert ending.is_guarded()
        inside = Path(tempfile.gettempdir())
        assert inside.parent == Path(folder)
        assert os.environ["TMPDIR"] == str(inside)
        assert os.environ["RAY_TMPDIR"]
        with ending.guarded():  # a job that another one calls
            assert tempfile.gettempdir() == str(inside)
        assert inside.is_dir()
    assert not ending.is_guarded()
    assert not inside.exists()
    assert tempfile.gettempdir() == folder
    assert [signal.getsignal(number) for number in ending.SIGNALS] == before
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == blocked


def test_outside_a_job_the_main_thread_is_interrupted() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # Ray may have replaced it
    try:
        with pytest.raises(KeyboardInterrupt):
            ending.end_job(1, "unused")
    finally:
        signal.signal(signal.SIGINT, before)
