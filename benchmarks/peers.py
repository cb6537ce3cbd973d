"""Runs measurements of other tools in `.venv-peers`, the environment that `make peers` builds."""

from __future__ import annotations

import os
import subprocess
import sysconfig

from benchmarks import CHECKOUT
from pipeline.errors import UserError

PYTHON = CHECKOUT / ".venv-peers" / "bin" / "python"


def require_peers(tool: str) -> None:
    """Raise UserError unless the environment exists. `tool` is what it is needed for."""
    if not PYTHON.exists():
        raise UserError(str(PYTHON), f"does not exist: it has {tool}", "Run `make peers` first.")


def run_module(module: str, *arguments: object) -> str:
    """Run a module of `benchmarks` in the environment. Gives what it writes to stdout.

    LENT_PACKAGES names the packages of this environment, so that torch is installed only once.
    """
    command = [str(PYTHON), "-m", f"benchmarks.{module}", *map(str, arguments)]
    environment = {**os.environ, "LENT_PACKAGES": sysconfig.get_paths()["purelib"]}
    return subprocess.run(
        command, cwd=CHECKOUT, env=environment, check=True, stdout=subprocess.PIPE, text=True
    ).stdout
