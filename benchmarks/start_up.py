"""Run `jobs/benchmark.py start-up`: seconds from `ray job submit` to the first row, on a running cluster.

Every job is submitted with a new copy of the code, as after every change of it, so Ray unpacks it anew on the
node. The images are a few copies of one photograph.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import CHECKOUT
from benchmarks.config import StartUpConfig
from benchmarks.rates import scored_at
from benchmarks.results import write_results
from demo import servers

_MARKS = {
    "driver": "Running entrypoint",
    "connected": "pipeline.runtime.cluster: Ray cluster:",
    "planned": "pipeline.score: run ",
}
"""A step of a job, and the words of the log line that ends it."""
STEPS = (*_MARKS, "first row", "end")


def run(config: StartUpConfig) -> None:
    """Measure, print a table, and write results.json."""
    config.output.mkdir(parents=True, exist_ok=True)
    servers.use_demo_environment()
    with tempfile.TemporaryDirectory() as folder, servers.ray_cluster(config.output) as dashboard:
        images = Path(folder, "images")
        images.mkdir()
        for number in range(config.images):
            shutil.copy(config.image, images / f"{number}{config.image.suffix}")
        rounds = [
            _submit(dashboard, Path(folder), images, config.checkpoint, number)
            for number in range(config.rounds)
        ]
    write_results(config, rounds)
    print(table(rounds), end="")


def table(rounds: Sequence[Mapping[str, float]]) -> str:
    """Write the seconds since the command as a Markdown table: each round, and the medians but the first."""
    lines = [f"| job | {' | '.join(STEPS)} |", f"| --- |{' ---: |' * len(STEPS)}"]
    for number, seconds in enumerate(rounds, 1):
        lines.append(f"| {number} | {' | '.join(f'{seconds[step]:.1f}' for step in STEPS)} |")
    later = rounds[1:] or rounds
    medians = (statistics.median(r[step] for r in later) for step in STEPS)
    lines.append(f"| median of the later ones | {' | '.join(f'{m:.1f}' for m in medians)} |")
    return "\n".join(lines) + "\n"


def _submit(
    dashboard: str, folder: Path, images: Path, checkpoint: str, number: int
) -> dict[str, float]:
    """Submit a job, and give the seconds since then at the end of each of `STEPS`."""
    code, output = folder / f"code-{number}", folder / f"results-{number}"
    for part in ("fastrcnn", "pipeline", "jobs"):
        shutil.copytree(CHECKOUT / part, code / part, ignore=shutil.ignore_patterns("__pycache__"))
    (code / "number.txt").write_text(f"{number} {time.time()}")  # another package for Ray
    command = ["ray", "job", "submit", "--address", dashboard, "--working-dir", str(code), "--"]
    command += ["python", "jobs/score_bucket.py", "--images", str(images)]
    command += ["--checkpoint", checkpoint, "--output", str(output)]
    began, seconds = time.time(), dict[str, float]()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=os.environ, text=True
    ) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            for step, words in _MARKS.items():
                if words in line:
                    seconds.setdefault(step, time.time() - began)
    if process.returncode:
        raise RuntimeError(f"the job failed:\n{''.join(lines[-20:])}")
    (run_folder,) = (output / "scored").iterdir()
    seconds["first row"] = float(scored_at(str(run_folder))[0]) / 1e6 - began
    return seconds | {"end": time.time() - began}
