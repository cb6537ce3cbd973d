"""Runs programs in `.venv-peers`, the environment of other tools' libraries. `make peers` builds it."""

from __future__ import annotations

import json
import os
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
PROGRAMS = CHECKOUT / ".venv-peers" / "bin"
SECONDS = 300


def require_peers() -> None:
    """Skip the test if the environment does not exist."""
    if not (PROGRAMS / "python").exists():
        pytest.skip("no .venv-peers: run `make peers`")


def read(tool: str, data_sets: list[tuple[str, Path]], home: Path) -> Any:
    """Read data sets (layout, folder) by a function of readers.py in the environment; give its results.

    Args:
        home: an empty folder for the settings and caches of the libraries.
    """
    program = [str(PROGRAMS / "python"), str(Path(__file__).with_name("readers.py")), tool]
    output = run([*program, *(f"{layout}={folder}" for layout, folder in data_sets)], home)
    return json.loads(output.splitlines()[-1])


def run(command: list[str] | str, home: Path) -> str:
    """Run a command, or a line of shell, with the programs of the environment first; give its output."""
    changed = {
        "PATH": f"{PROGRAMS}:{os.environ['PATH']}",
        "HOME": str(home),
        "YOLO_CONFIG_DIR": str(home),
        "YOLO_OFFLINE": "true",
        "FIFTYONE_DO_NOT_TRACK": "true",
        "MPLBACKEND": "agg",
        "LENT_PACKAGES": sysconfig.get_paths()["purelib"],
    }
    done = subprocess.run(
        command,
        shell=isinstance(command, str),
        cwd=home,
        env=os.environ | changed,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout
