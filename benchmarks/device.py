"""Run `python -m benchmarks.device --output DIR`: what one GPU makes of the detector, in under nine minutes.

It needs torch, torchvision, numpy and Pillow, and neither Ray nor an installed package. Each step is a
process with a time limit, so a step that hangs costs only itself. After each step, results.json and table.txt
are written again. Without a GPU, and with --dry-run, the same steps run with small numbers, as a check of the
command itself.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

CHECKOUT = Path(__file__).resolve().parents[1]
_LEAST_SECONDS = 5


class Step(NamedTuple):
    """One measurement."""

    name: str
    """Function in `benchmarks.device_steps`; or `tests`."""
    seconds: int
    """The longest time that it may take on a GPU."""
    what: str


STEPS = (
    Step("tests", 90, "tests marked gpu"),
    Step("detector", 130, "images/s of detect, share of the peak, memory"),
    Step("training", 70, "images/s of a training step, memory"),
    Step("waits", 45, "waits for the GPU that CUDA reports"),
    Step("compiled", 90, "the same with torch.compile"),
    Step("precision", 30, "error of float32, with and without TF32"),
    Step("independence", 25, "scores of an image alone and among others"),
    Step("svd", 40, "VGG16 with and without truncated SVD"),
    Step("graphs", 25, "the head as a CUDA graph"),
    Step("suppression", 20, "suppression of many boxes"),
    Step("memory", 45, "batches that do not fit are halved; memory does not grow"),
    Step("feed", 30, "images/s that the CPUs decode"),
    Step("passes", 10, "passes and padded pixels of mixed sizes"),
)


def main(arguments: list[str]) -> int:
    """Run the steps and print the table. Gives 1 if a step failed."""
    flags = _parse(arguments)
    if flags.step:
        from benchmarks import device_steps

        print(json.dumps(device_steps.measure(flags)))
        return 0
    flags.output.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * flags.minutes
    results: dict[str, Any] = {}
    for step in STEPS:
        if flags.only and step.name not in flags.only:
            continue
        left = end - time.monotonic()
        limit = left if flags.dry_run else min(step.seconds, left)
        results[step.name] = _run(step, flags, limit) if limit > _LEAST_SECONDS else _NO_TIME
        (flags.output / "results.json").write_text(json.dumps(results, indent=1) + "\n")
        (flags.output / "table.txt").write_text("\n".join(table(results)) + "\n")
        print("\n".join(_lines(step, results[step.name])), flush=True)
    return int(any("error" in result for result in results.values()))


_NO_TIME = {"error": "no time left", "seconds": 0.0}


def table(results: dict[str, Any]) -> list[str]:
    """Write one line for each number."""
    return [
        line for step in STEPS if step.name in results for line in _lines(step, results[step.name])
    ]


def _lines(step: Step, result: dict[str, Any]) -> list[str]:
    lines = [f"{step.name}: {step.what} ({result['seconds']:.0f} s)"]
    if "error" in result:
        lines.append(f"  failed: {result['error'].splitlines()[-1]}")
    return lines + [f"  {name:<52}{value:>12}" for name, value in result.get("rows", [])]


def _run(step: Step, flags: argparse.Namespace, limit: float) -> dict[str, Any]:
    """Run one step in a separate process, and read its rows."""
    started = time.monotonic()
    command = _tests(flags) if step.name == "tests" else _command(step, flags)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(CHECKOUT), *sys.path[1:]))}
    try:
        done = subprocess.run(
            command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=limit
        )
    except subprocess.TimeoutExpired:
        return {"error": f"took more than {limit:.0f} s", "seconds": limit}
    seconds = time.monotonic() - started
    last = (done.stdout.strip().splitlines() or [""])[-1]
    if step.name == "tests":
        # A dry run collects the tests and selects none, which is exit code 5.
        failed = {} if done.returncode in (0, 5) else {"error": done.stdout[-4000:] or done.stderr}
        return {"seconds": seconds, "rows": [("pytest", last.strip("= "))], **failed}
    if done.returncode:
        return {"error": done.stderr[-4000:] or f"exit code {done.returncode}", "seconds": seconds}
    return {"seconds": seconds, **json.loads(last)}


def _command(step: Step, flags: argparse.Namespace) -> list[str]:
    given = ["--step", step.name, "--output", str(flags.output), *(["--dry-run"] * flags.dry_run)]
    for name in ("data", "weights"):
        value = getattr(flags, name)
        given += [f"--{name}", str(value)] if value else []
    return [sys.executable, "-m", "benchmarks.device", *given]


def _tests(flags: argparse.Namespace) -> list[str]:
    """Give the command of the tests that need a GPU, without conftest.py, which needs Ray."""
    files = sorted(
        str(path.relative_to(CHECKOUT))
        for path in (CHECKOUT / "tests" / "fastrcnn").rglob("test_*.py")
        if "pytest.mark.gpu" in path.read_text()
    )
    options = ["-o", "addopts=--import-mode=importlib", "-p", "no:cacheprovider", "-q"]
    chosen = "gpu and not gpu" if flags.dry_run else "gpu"  # a dry run only collects them
    return [sys.executable, "-m", "pytest", "-m", chosen, "--noconftest", *options, *files]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.device", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder of results and table")
    parser.add_argument("--data", type=Path, help="folder of JPEGs; without one, images are drawn")
    parser.add_argument("--weights", type=Path, help="state_dict of torchvision's mobilenet_v2")
    parser.add_argument("--minutes", type=float, default=8.5, help="end after this time")
    parser.add_argument("--only", nargs="+", choices=[s.name for s in STEPS], help="these steps")
    parser.add_argument("--dry-run", action="store_true", help="small numbers, also on a CPU")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    return parser


def _parse(arguments: list[str]) -> argparse.Namespace:
    """Read and check the flags. Paths become absolute, because steps run in the checkout."""
    parser = _parser()
    flags = parser.parse_args(arguments)
    if not flags.step:
        import torch

        if not torch.cuda.is_available() and not flags.dry_run:
            parser.error("torch sees no GPU. Check the driver, or give --dry-run")
    for name in ("data", "weights"):
        path = getattr(flags, name)
        if path and not path.exists():
            parser.error(f"--{name} {path} does not exist")
    flags.output = flags.output.absolute()
    for name in ("data", "weights"):
        if getattr(flags, name):
            setattr(flags, name, getattr(flags, name).absolute())
    return flags


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
