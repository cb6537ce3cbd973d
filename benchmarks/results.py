"""Write results.json of a benchmark: results, flags, and a description of the machine."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from fastrcnn.precision import multiplies_bfloat16

PACKAGES = ("ray", "torch", "torchvision", "numpy", "simplejpeg", "opencv-contrib-python-headless")


def write_results(config: Any, results: Any) -> None:
    """Write or replace results.json in `config.output`.

    Args:
        config: the flags of the benchmark, a dataclass with a field `output`.
        results: values of JSON types.
    """
    described = {
        "results": results,
        "config": {name: str(value) for name, value in asdict(config).items()},
        "machine": machine(),
    }
    config.output.mkdir(parents=True, exist_ok=True)
    (config.output / "results.json").write_text(json.dumps(described, indent=1) + "\n")


def machine() -> dict[str, Any]:
    """Describe hardware and versions."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return {
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if device.type == "cuda" else None,
        "multiplies_bfloat16": multiplies_bfloat16(device),
        "versions": {"python": platform.python_version()} | dict(_versions()),
    }


def _versions() -> Iterator[tuple[str, str]]:
    for package in PACKAGES:
        with suppress(PackageNotFoundError):  # a GPU machine may have torch but no Ray
            yield package, version(package)


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
