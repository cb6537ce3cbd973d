"""Tests of the layers of pipeline/: no module imports from a higher layer.

A *room* is a folder or module directly below pipeline/. Rooms of one *floor* may not import each other.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
FLOORS = (
    ("errors", "schema"),
    ("runtime",),
    ("config",),
    ("storage",),
    ("images",),
    ("annotations", "drawing", "proposals"),
    ("record",),
    ("counting", "detections"),
    ("detector",),
    ("results", "scoring", "training"),
    ("ablation", "packing"),
)
"""Rooms by floor, from the lowest up. A module that is not listed is a job, on the top floor."""
JOBS = (
    "ablate",
    "calibrate",
    "compact",
    "compress",
    "draw_scenes",
    "evaluate",
    "estimate",
    "export",
    "export_proposals",
    "import_proposals",
    "import_weights",
    "pack",
    "report",
    "sample",
    "score",
    "suspects",
    "train",
)
MAY_CALL = {"export": {"compact"}, "report": {"evaluate"}, "ablate": {"train"}}
"""Jobs that call another job."""


def room(module: str) -> str:
    """Give the room of a module: pipeline.storage.s3 is in storage."""
    return module.split(".")[1]


def floor(name: str) -> int:
    return next((n for n, names in enumerate(FLOORS) if name in names), len(FLOORS))


def imports() -> Iterator[tuple[str, str, str]]:
    """Yield (room, imported room, file) of each import between rooms, also inside functions."""
    for path in sorted((CHECKOUT / "pipeline").rglob("*.py")):
        parts = path.relative_to(CHECKOUT).with_suffix("").parts
        if len(parts) == 2 and parts[1] in ("__init__", "__main__"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            for module in imported(node):
                if module.count(".") and room(module) != parts[1]:
                    yield parts[1], room(module), str(path.relative_to(CHECKOUT))


def imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module == "pipeline":
        names = [f"pipeline.{alias.name}" for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module:
        names = [node.module]
    else:
        names = []
    return [name for name in names if name.split(".")[0] == "pipeline"]


def test_no_room_imports_a_higher_floor() -> None:
    upwards = {
        f"{low} imports {high} in {path}"
        for low, high, path in imports()
        if floor(low) < floor(high)
        or (floor(low) == floor(high) and high not in MAY_CALL.get(low, ()))
    }
    assert sorted(upwards) == [], "\n".join(sorted(upwards))


def test_the_top_floor_holds_the_jobs_only() -> None:
    names = {
        path.stem if path.is_file() else path.name
        for path in (CHECKOUT / "pipeline").iterdir()
        if path.suffix == ".py" or (path.is_dir() and (path / "__init__.py").exists())
    }
    known = {name for names in FLOORS for name in names}
    assert names - known - {"__init__", "__main__"} == set(JOBS)


def test_fastrcnn_imports_no_ray_and_no_storage() -> None:
    """fastrcnn/ can be used on any machine by plain calls."""
    banned = ("ray", "pipeline", "jobs", "fsspec", "s3fs", "boto3")
    imported_names = [
        f"{path.name}: {name}"
        for path in (CHECKOUT / "fastrcnn").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
        if name.split(".")[0] in banned
    ]
    assert imported_names == []
