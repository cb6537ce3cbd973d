"""Tests of the queries in the README, on a small record in a bucket."""

from __future__ import annotations

import ast
import datetime
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline import storage
from pipeline.schema import FIRST_COLUMNS, SCORED, encode_parquet, scored_metadata

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()
QUERIES = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def row(name: str, status: str, detections: list[tuple[str, float]] | None) -> dict[str, Any]:
    boxes = [
        {"label": label, "label_id": 1, "score": score}
        | {"x_min": 1.0, "y_min": 2.0, "x_max": 30.0, "y_max": 40.0}
        for label, score in detections or []
    ]
    return dict.fromkeys(SCORED.names) | {
        "image_uri": f"s3://bucket/inbox/{name}",
        "status": status,
        "error": None if status == "ok" else "cut short",
        "scored_at": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
        "detections": None if detections is None else boxes,
    }


@pytest.fixture
def record(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Write two runs to a bucket and to the local folder `results`.

    The first run has no box, and the columns of version 1.
    """
    old = [row("c.jpg", "ok", []), row("d.jpg", "undecodable", None)]
    new = [
        row("a.jpg", "ok", [("cat", 0.75), ("dog", 0.5)]),
        row("b.jpg", "ok", [("cat", 0.875)]),
    ]
    for run, rows, columns in (("0009", old, FIRST_COLUMNS), ("0123", new, SCORED.names)):
        table = pa.Table.from_pylist(rows, schema=SCORED).select(columns)
        data = encode_parquet(table, metadata=scored_metadata(("cat", "dog"), "0123"))
        storage.write_bytes(f"{bucket}/results/scored/{run}/0.parquet", data)
    storage.download_folder(f"{bucket}/results", tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    return bucket


def value_of(code: str) -> Any:
    """Run a snippet; give the value of its last expression."""
    *statements, last = ast.parse(code).body
    assert isinstance(last, ast.Expr)
    names: dict[str, Any] = {}
    exec(compile(ast.Module(statements, []), "README.md", "exec"), names)
    return eval(compile(ast.Expression(last.value), "README.md", "eval"), names)


def test_the_readme_has_a_query_for_each_tool() -> None:
    assert [
        q for tool in ("duckdb", "polars", "pyarrow") for q in QUERIES if f"import {tool}" in q
    ] == QUERIES


def test_duckdb_gives_the_cats_with_the_highest_scores(record: str) -> None:
    relation = value_of(QUERIES[0].replace("s3://bucket/", f"{record}/"))
    assert relation.fetchall() == [
        ("s3://bucket/inbox/b.jpg", "cat", 0.875, 1.0, 2.0, 30.0, 40.0),
        ("s3://bucket/inbox/a.jpg", "cat", 0.75, 1.0, 2.0, 30.0, 40.0),
    ]


@pytest.mark.usefixtures("record")
def test_polars_counts_boxes_by_class() -> None:
    assert sorted(value_of(QUERIES[1]).rows()) == [("cat", 2), ("dog", 1)]


@pytest.mark.usefixtures("record")
def test_pyarrow_lists_images_that_were_not_scored() -> None:
    assert value_of(QUERIES[2]).to_pylist() == [
        {"image_uri": "s3://bucket/inbox/d.jpg", "status": "undecodable", "error": "cut short"}
    ]
