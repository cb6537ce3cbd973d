"""The rooms of the project: no import runs upwards."""

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
    ("detections",),
    ("detector",),
    ("results", "scoring", "training"),
    ("ablation",),
)
"""Rooms and modules of pipeline/, from the ground up. What is not here is a job, on the top floor."""
JOBS = (
    "ablate",
    "compact",
    "compress",
    "draw_scenes",
    "evaluate",
    "export",
    "export_proposals",
    "import_proposals",
    "report",
    "score",
    "train",
)
KEPT = {("detector", "scoring")}
"""Detector(table of candidates) still gives result rows, as before the actor had a class of its own."""
MAY_CALL = {"export": {"compact"}, "report": {"evaluate"}, "ablate": {"train"}}
"""Jobs that do the work of another one first."""


def room(module: str) -> str:
    """The second word of a module's name: pipeline.storage.s3 lies in storage."""
    return module.split(".")[1]


def floor(name: str) -> int:
    return next((n for n, names in enumerate(FLOORS) if name in names), len(FLOORS))


def imports() -> Iterator[tuple[str, str, str]]:
    """(room, imported room, file) of each import between two rooms, inside functions too."""
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


def test_no_import_runs_upwards() -> None:
    upwards = {
        f"{low} imports {high} in {path}"
        for low, high, path in imports()
        if (low, high) not in KEPT
        and (
            floor(low) < floor(high)
            or (floor(low) == floor(high) and high not in MAY_CALL.get(low, ()))
        )
    }
    assert sorted(upwards) == [], "\n".join(sorted(upwards))


def test_the_top_floor_is_the_jobs() -> None:
    names = {
        path.stem if path.is_file() else path.name
        for path in (CHECKOUT / "pipeline").iterdir()
        if path.suffix == ".py" or (path.is_dir() and (path / "__init__.py").exists())
    }
    known = {name for names in FLOORS for name in names}
    assert names - known - {"__init__", "__main__"} == set(JOBS)


def test_the_detector_knows_no_ray_and_no_storage() -> None:
    """fastrcnn/ runs as plain calls on any machine."""
    banned = ("ray", "pipeline", "jobs", "fsspec", "s3fs", "boto3")
    found = [
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
    assert found == []
