"""What --help of every job says, in a terminal of 80 columns."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

JOBS = sorted(
    path
    for path in (Path(__file__).resolve().parents[2] / "jobs").glob("*.py")
    if path.stat().st_mode & 0o100
)
TASKS = {
    "benchmark": "accuracy proposals proposers decode detector score scale memory train".split(),
}
CASES = [
    pytest.param(path, task, id=" ".join([path.stem, *task]))
    for path in JOBS
    for task in [[], *([task] for task in TASKS.get(path.stem, ()))]
]


@pytest.mark.parametrize(("path", "task"), CASES)
def test_help_fits_80_columns_and_describes_each_flag(
    path: Path, task: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "argv", [f"jobs/{path.name}", *task, "--help"])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(path), run_name="__main__")
    assert caught.value.code == 0
    said = capsys.readouterr().out
    assert [line for line in said.splitlines() if len(line) > 80] == []
    assert f"jobs/{path.name}" in said
    assert undescribed(said) == []


def undescribed(said: str) -> list[str]:
    """Flags after whose names and values no words come."""
    box = "\n".join(re.findall(r"^│ (.*?) *│$", said, re.MULTILINE))
    flags = re.split(r"^(?=--?[a-z])", box, flags=re.MULTILINE)
    values = re.compile(r"^(-h, )?--[\w-]+( [^a-z\n]*?(\{[^}]*\}\S*)?)?(  +|\n)")
    told = [values.sub("", flag) for flag in flags if flag.startswith("-")]
    return [flag for flag in told if not re.match(r"\s*[A-Za-z`][^(]*[a-z]{2}", flag)]
