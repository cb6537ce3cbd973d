"""Lines of Ray that say nothing are left out; everything else is printed as it is."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from pipeline.runtime.quiet import without_noise

NOISE = [
    "\x1b[36m(TrainController pid=1)\x1b[0m [2026-11-30 03:56:05,429 E 1 2] core_worker.cc:2465: Actor",
    "\x1b[36m(PlacementGroupCleaner pid=3, ip=10.0.0.1)\x1b[0m Traceback (most recent call last):",
    "(RayTrainWorker pid=4) Reporting training result 1: TrainingReport(checkpoint=None, metrics={})",
]
KEPT = [
    "(RayTrainWorker pid=4) iteration 1: validation mAP 0.1257",
    "(MapWorker pid=5) Traceback (most recent call last):",
    "a.jpg: TrainingReport is the name of a file",
    "",
    "done",
]


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_noise_is_left_out_with_its_line_ends(
    capsys: pytest.CaptureFixture[str], stream: str
) -> None:
    with without_noise():
        target = getattr(sys, stream)
        for line in (KEPT[0], *NOISE, *KEPT[1:]):
            print(line, file=target)
        target.write("\n".join([NOISE[0], "one write", NOISE[1], "of lines"]) + "\n")
        target.writelines(["x\n", NOISE[0] + "\n"])
        print("a part ", end="", file=target, flush=True)
        print("of a line", file=target)
    print("after", file=getattr(sys, stream))
    expected = [*KEPT, "one write", "of lines", "x", "a part of a line", "after"]
    assert getattr(capsys.readouterr(), stream[3:])[:-1].split("\n") == expected


def test_the_streams_come_back_and_keep_their_methods() -> None:
    before = sys.stdout, sys.stderr
    with without_noise():
        assert sys.stderr.isatty() == before[1].isatty()
    assert (sys.stdout, sys.stderr) == before


_JOB = """
import logging, os, sys
from pipeline.runtime.quiet import without_noise

logging.basicConfig(format="%(message)s")
core = "[2026-11-30 03:56:05,429 E 1 2] core_worker.cc:2465: "
noise = "Actor with class name: 'M' has constructor arguments in the object store and max_restarts > 0. If"
with without_noise():
    print("from Python", sys.stderr.isatty(), file=sys.stderr)
    logging.warning("from the log")
    os.write(2, f"{core}{noise}\\n{core}the owner died\\n\\xff\\n".encode("latin-1"))
    LAST
os.write(2, b"after\\n")
print("after", file=sys.stderr)
"""


def errors_of(last: str) -> list[bytes]:
    """Run a process that writes past Python. Return the lines of its stderr, those of Python first."""
    ended = subprocess.run(
        [sys.executable, "-c", _JOB.replace("LAST", last)], stderr=subprocess.PIPE, check=False
    )
    return sorted(ended.stderr.splitlines(), key=lambda line: not line.startswith(b"from"))


CORE = b"[2026-11-30 03:56:05,429 E 1 2] core_worker.cc:2465: the owner died"


def test_lines_that_the_core_writes_past_python_are_filtered_too() -> None:
    python = [b"from Python False", b"from the log"]
    assert errors_of("pass") == [*python, CORE, b"\xff", b"after", b"after"]


def test_what_a_process_wrote_before_it_crashed_is_printed() -> None:
    python = [b"from Python False", b"from the log"]
    assert errors_of("os.kill(os.getpid(), 9)") == [*python, CORE, b"\xff"]


def test_a_process_that_outlives_the_job_does_not_hold_it_up() -> None:
    last = "__import__('subprocess').Popen(['sleep', '6'], stdout=-3, stdin=-3)"
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", _JOB.replace("LAST", last)], stderr=-3, check=True)
    assert time.monotonic() - started < 5


_LOGS = """
import logging, sys
from pipeline.runtime.quiet import without_noise

logging.basicConfig()
logging.raiseExceptions = False
with without_noise():
    for number in range(50):
        logging.warning("line %d", number)
"""


@pytest.mark.parametrize("target", ["| head -1 > /dev/null", "> /dev/full"])
def test_a_job_whose_last_lines_nobody_takes_ends_as_it_would(target: str) -> None:
    shell = f"set -o pipefail; {sys.executable} - 2>&1 {target}"
    ended = subprocess.run(["bash", "-c", shell], input=_LOGS.encode(), stderr=subprocess.PIPE)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_what_took_the_stream_inside_the_job_may_use_it_afterwards() -> None:
    """As Ray's log handlers and the crash dump that it enables."""
    last = "import faulthandler; faulthandler.enable(); taken = sys.stderr"
    code = _JOB.replace("LAST", last) + 'taken.write("taken\\n"); faulthandler._sigsegv()\n'
    ended = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE)
    assert b"taken" in ended.stderr
    assert b"Fatal Python error: Segmentation fault" in ended.stderr


def test_a_process_may_have_no_stderr() -> None:
    code = "import sys\nfrom pipeline.runtime.quiet import without_noise\nwith without_noise(): print(1)"
    shell = f'{sys.executable} -c "{code}" 2>&-'
    assert subprocess.check_output(["bash", "-c", shell]) == b"1\n"
