"""Jobs with a Ray that they start themselves, ended by a signal in the middle of their work."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.draw_scenes import draw_split
from tests.autoscaling import processes
from tests.soak.images import drawn_images

CHECKOUT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.timeout(600), pytest.mark.long]
SMALL = (
    "--backbone tiny --weights none --proposals grid --max-proposals 50 --scale 96 --fc-dim 16"
    " --rois-per-image 16 --batch-size 2 --iterations 5000 --validate-every 10"
).split()


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder with a short path: paths of Ray's sockets have at most 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="s", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def processes_of(folder: Path) -> list[str]:
    """Command lines of running processes that name this folder: those of Ray."""
    return [
        command[:200]
        for pid, command in processes()
        if str(folder) in command and pid != os.getpid()
    ]


def environment_of(scratch: Path) -> dict[str, str]:
    """Make a temporary folder for a job. Return the environment of the job."""
    (scratch / "tmp").mkdir()
    return os.environ | {
        "TMPDIR": str(scratch / "tmp"),
        "RAY_TMPDIR": str(scratch / "r"),
        "RAY_AUTH_MODE": "token",
        "RAY_memory_monitor_refresh_ms": "0",
    }


def end(
    scratch: Path,
    words: list[str],
    number: signal.Signals,
    ready: Callable[[], bool],
    *,
    again: bool = False,
) -> tuple[int, list[str], float]:
    """Start a job and send the signal when it is ready. Return exit code, lines of output, and seconds.

    Args:
        scratch: a folder with a short path.
        words: the command after `python`.
        number: the signal.
        ready: whether the moment has come.
        again: send the signal a second time, a tenth of a second later.
    """
    environment = environment_of(scratch)
    with (scratch / "said").open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, *words],
            cwd=CHECKOUT,
            env=environment,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 300
        while not ready():
            assert process.poll() is None, (scratch / "said").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        began = time.monotonic()
        process.send_signal(number)
        if again:
            time.sleep(0.1)
            process.send_signal(number)
        code = process.wait(60)
        return code, (scratch / "said").read_text().splitlines(), time.monotonic() - began
    finally:
        process.kill()
        process.wait()


def check(scratch: Path, ended: tuple[int, list[str], float], number: signal.Signals) -> None:
    code, lines, seconds = ended
    assert code == 128 + number, lines
    assert lines[-1].startswith(f"stopped by {number.name}. What is written is whole")
    assert not [line for line in lines if "*** SIG" in line or "Stack trace" in line]
    assert seconds < 10  # two seconds on a machine with nothing else to do
    assert list((scratch / "tmp").iterdir()) == []
    deadline = time.monotonic() + 20
    while processes_of(scratch) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert processes_of(scratch) == []


def scoring(folder: Path, checkpoint: Path, count: int = 600) -> list[str]:
    """Draw images. Return the command that scores them."""
    (folder / "in").mkdir()
    for name, data in drawn_images(count).items():
        (folder / "in" / name).write_bytes(data)
    words = ["jobs/score_bucket.py", "--images", str(folder / "in"), "--shard-size", "10"]
    return [*words, "--checkpoint", str(checkpoint), "--output", str(folder / "out")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_scoring_job_ends_before_ray_starts(
    scratch: Path, tmp_path: Path, tiny_checkpoint: Path, number: signal.Signals
) -> None:
    words = scoring(tmp_path, tiny_checkpoint, 20)
    made = scratch / "tmp"
    ended = end(scratch, words, number, lambda: any(made.glob("fastrcnn-ray-*/lock")))
    check(scratch, ended, number)
    assert not (scratch / "r").exists()


@pytest.mark.parametrize("log", ["raylet.out", "python-core-driver-*.log"])
def test_a_scoring_job_ends_while_ray_starts(
    scratch: Path, tmp_path: Path, tiny_checkpoint: Path, log: str
) -> None:
    """Its raylet starts; or the driver connects, and Ray has installed a handler that dumps the stack."""
    words = scoring(tmp_path, tiny_checkpoint, 20)

    def ready() -> bool:
        return any((scratch / "r").rglob(f"session_*/logs/{log}"))

    check(scratch, end(scratch, words, signal.SIGTERM, ready), signal.SIGTERM)


def test_a_second_signal_changes_nothing(
    scratch: Path, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    words = scoring(tmp_path, tiny_checkpoint)
    shards = tmp_path / "out" / "scored"
    ended = end(scratch, words, signal.SIGTERM, lambda: any(shards.glob("*/*.parquet")), again=True)
    check(scratch, ended, signal.SIGTERM)


def test_a_dry_run_leaves_nothing_in_the_temporary_folder(
    scratch: Path, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    """Not a folder of torch's compiler either."""
    words = scoring(tmp_path, tiny_checkpoint, 20)
    command = [sys.executable, *words, "--dry-run"]
    subprocess.run(command, cwd=CHECKOUT, env=environment_of(scratch), check=True, timeout=300)
    assert list((scratch / "tmp").iterdir()) == []


def test_a_scoring_job_ends_in_one_line(
    scratch: Path, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    words = scoring(tmp_path, tiny_checkpoint)
    ended = end(
        scratch,
        words,
        signal.SIGTERM,
        lambda: any((tmp_path / "out").glob("scored/*/*.parquet")),
    )
    check(scratch, ended, signal.SIGTERM)


def test_a_training_ends_in_one_line_and_gives_its_lease_back(
    scratch: Path, tmp_path: Path
) -> None:
    """Its worker has a folder for TensorBoard and one for a checkpoint in the temporary folder."""
    draw_split(tmp_path / "data", "train", range(6), seed=0, size=(90, 110))
    draw_split(tmp_path / "data", "val", range(6, 8), seed=0, size=(90, 110))
    train = tmp_path / "out" / "train"
    words = ["jobs/train.py", "--data", str(tmp_path / "data"), "--output", str(tmp_path / "out")]
    ended = end(
        scratch, [*words, *SMALL], signal.SIGINT, lambda: any(train.glob("checkpoint_*/*.json"))
    )
    check(scratch, ended, signal.SIGINT)
    assert '"ended": true' in sorted(train.glob("lease-*.json"))[-1].read_text()
