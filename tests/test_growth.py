"""Tests that a later version, with one more column, field and flag of each kind, passes `test_golden`."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
NEW_FIELDS = {
    "ProposalConfig": "overlap: float = 0.0",
    "FastRCNNConfig": "label_smoothing: float = 0.0",
    "RPNConfig": "num_convolutions: int = 1",
    "SolverConfig": "average_decay: float = 0.0",
    "ScoreConfig": "reviewer: str = 'nobody'",
    "TrainConfig": "reviewer: str = 'nobody'",
}


def add_field(folder: Path, name: str, field: str) -> None:
    """Add a field at the end of a dataclass, which may be in any file below `folder`."""
    for path in folder.rglob("*.py"):
        source = path.read_text()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ClassDef) and node.name == name:
                places = [n for n, part in enumerate(node.body) if isinstance(part, ast.AnnAssign)]
                fields = [n for n in places if "ClassVar" not in ast.unparse(node.body[n])]
                before = node.body[fields[-1]]
                after = node.body[fields[-1] + 1]
                if isinstance(after, ast.Expr):  # the docstring of the last field
                    before = after
                lines = source.splitlines()
                lines.insert(before.end_lineno or 0, f"    {field}")
                path.write_text("\n".join(lines) + "\n")
                return
    raise AssertionError(f"no class {name}")


def add_column(folder: Path) -> None:
    """Append a column to scored/, and raise its version by one."""
    path = folder / "pipeline" / "schema.py"
    source = path.read_text()
    last = '        pa.field("num_tiles", pa.int32()),\n'
    assert source.count(last) == 1
    assert source.count("TABLE_VERSION = 2\n") == 1
    source = source.replace(last, last + '        pa.field("reviewed_by", pa.string()),\n')
    path.write_text(source.replace("TABLE_VERSION = 2\n", "TABLE_VERSION = 3\n"))


@pytest.fixture
def later(tmp_path: Path) -> Path:
    """A copy of the code with all these changes."""
    for name in ("fastrcnn", "pipeline", "jobs", "tests", "pyproject.toml"):
        source = CHECKOUT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, tmp_path / name)
    add_column(tmp_path)
    for name, field in NEW_FIELDS.items():
        add_field(tmp_path, name, field)
    return tmp_path


@pytest.mark.long
def test_a_later_version_passes_the_golden_tests(later: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "", "tests/test_golden.py"],
        cwd=later,
        env=os.environ | {"PYTHONPATH": str(later)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert "passed" in done.stdout
    check = "import pipeline.schema as s; assert s.TABLE_VERSION == 3; print(s.SCORED.names[-1])"
    seen = subprocess.run(
        [sys.executable, "-c", check], cwd=later, capture_output=True, text=True, check=True
    )
    assert seen.stdout.strip() == "reviewed_by"
