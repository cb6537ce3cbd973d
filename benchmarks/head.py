"""Run `jobs/benchmark.py head`: memory of a head node without CPUs, while a scoring job runs on it.

Starts a head (GCS, dashboard, raylet and their helpers) and a worker node on this machine, each with its
ports, and runs `jobs/score_bucket.py` as driver. The list is that of `jobs/benchmark.py memory`.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import CHECKOUT
from benchmarks.config import HeadConfig
from benchmarks.memory import make_list
from benchmarks.results import write_results
from demo.processes import background, descendants, free_port

HEAD, WORKER = "127.0.0.2", "127.0.0.3"
"""Addresses of the two nodes. Ray replaces 127.0.0.1 by the address of the machine."""
_EVERY_S = 1.0
_START_S = 300.0
_KINDS = (
    ("gcs_server", "GCS"),
    ("/raylet/raylet", "raylet"),
    ("dashboard/agent", "raylet"),
    ("runtime_env/agent", "raylet"),
    ("DashboardAgent", "raylet"),
    ("RuntimeEnvAgent", "raylet"),
    ("dashboard", "dashboard"),
    ("Dashboard", "dashboard"),
    ("ray::", "actors"),
    ("score_bucket.py", "driver"),
)
"""Words of a command line, and the kind of the process. The first that fits counts."""


def run(config: HeadConfig) -> None:
    """Measure, print a table, and write results.json."""
    config.output.mkdir(parents=True, exist_ok=True)
    folder = config.output / "run"
    shutil.rmtree(folder, ignore_errors=True)
    make_list(folder, config.image.resolve(), config.keys)
    with _two_nodes(config.output) as (head, environment):
        peaks = _score(head, environment, folder, config.checkpoint)
    shutil.rmtree(folder)
    for kind, megabytes in peaks.items():
        print(f"{kind:>12}{megabytes:>8.0f} MB")
    write_results(config, peaks)


def kind_of(command: str) -> str:
    """Return the kind of a process of the head by its command line."""
    return next((kind for words, kind in _KINDS if words in command), "helpers")


@contextlib.contextmanager
def _two_nodes(logs: Path) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, str]]]:
    """Start the nodes. Give the process of the head, and the environment of drivers."""
    address = f"{HEAD}:{free_port()}"
    ours = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    ours |= {"RAY_agent_register_timeout_ms": "120000", "RAY_USAGE_STATS_ENABLED": "0"}
    os.environ.update(ours)
    with contextlib.ExitStack() as stack:
        folders = [stack.enter_context(tempfile.TemporaryDirectory(prefix="h-")) for _ in range(2)]
        head = _start(HEAD, folders[0])
        head += ["--head", "--port", address.rpartition(":")[2], "--num-cpus", "0"]
        head += ["--dashboard-port", str(free_port()), "--ray-client-server-port", str(free_port())]
        process = stack.enter_context(background(head, logs / "head.log"))
        _wait_for(logs / "head.log", process)
        worker = [*_start(WORKER, folders[1]), "--address", address, "--num-cpus", "2"]
        other = stack.enter_context(background(worker, logs / "worker.log"))
        _wait_for(logs / "worker.log", other)
        yield process, {**os.environ, "RAY_ADDRESS": address}


def _start(host: str, folder: str) -> list[str]:
    command = [str(Path(sys.executable).parent / "ray"), "start", "--block", "--temp-dir", folder]
    command += ["--node-ip-address", host, "--dashboard-agent-listen-port", str(free_port())]
    return [*command, "--object-store-memory", "200000000"]


def _wait_for(log: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_S
    while "Ray runtime started" not in log.read_text(errors="replace"):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"Ray did not start; see {log}")
        time.sleep(0.5)


def _score(
    head: subprocess.Popen[bytes], environment: dict[str, str], folder: Path, checkpoint: str
) -> dict[str, float]:
    """Run the job. Return the peak memory of each kind of process, and of all together, in MB."""
    command = [sys.executable, "jobs/score_bucket.py", "--checkpoint", checkpoint]
    command += ["--images", str(folder / "list.parquet"), "--output", str(folder / "results")]
    peaks: dict[str, float] = {}
    with subprocess.Popen(
        [*command, "--gpus-per-worker", "0"], env=environment, cwd=CHECKOUT
    ) as job:
        while job.poll() is None:
            now = _megabytes([head.pid, job.pid])
            now["all"] = sum(now.values())
            peaks |= {kind: max(value, peaks.get(kind, 0.0)) for kind, value in now.items()}
            time.sleep(_EVERY_S)
    if job.returncode:
        raise RuntimeError(f"jobs/score_bucket.py exited with {job.returncode}")
    return peaks


def _megabytes(parents: Sequence[int]) -> dict[str, float]:
    """Return the memory of processes and their descendants by kind. Shared pages are divided (PSS)."""
    pids = {pid for parent in parents for pid, _ in descendants(parent)} | set(parents)
    found: dict[str, float] = {}
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            kind = kind_of(Path(f"/proc/{pid}/cmdline").read_text(errors="replace"))
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    found[kind] = found.get(kind, 0.0) + int(line.split()[1]) / 1024
    return found
