"""Tests of docs/queries.md on a small record: DuckDB, Polars and the SQL for Athena and Spark agree."""

from __future__ import annotations

import ast
import datetime
import re
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import compact
from pipeline.config import CompactConfig
from pipeline.schema import DETECTIONS, FIRST_COLUMNS, SCORED
from tests.pipeline.scored_runs import image, write_shard

CHECKOUT = Path(__file__).resolve().parents[1]
MACROS = (CHECKOUT / "pipeline" / "detections.sql").read_text()
BLOCK = re.compile(r"```\w+ (duckdb|polars|athena|athena\+spark)\n(.*?)```", re.DOTALL)

OPENING, *_sections = (CHECKOUT / "docs" / "queries.md").read_text().split("\n## ")[1:]
QUESTIONS = {text.split("\n")[0]: dict(BLOCK.findall(text)) for text in _sections}
SETUP = {tool: code for tool, code in BLOCK.findall(OPENING) if tool != "athena"}
LARGE, SMALL = (0.0, 0.0, 640.0, 400.0), (5.0, 6.0, 7.0, 8.0)
DAY = 24
"""A day, in hours."""

Answer = list[tuple[Any, ...]]


def write_record(folder: Path) -> None:
    """Write a run of seven images from two days, one of them scored twice, and its flat table."""
    results = str(folder / "results")
    cats = [("cat", 0.875 - i / 16, SMALL) for i in range(4)]
    write_shard(
        results,
        image("a.jpg", *cats, ("dog", 0.625, LARGE)),
        image("b.jpg", ("cat", 0.25, SMALL), ("cat", 0.5, SMALL), ("cat", 0.375, SMALL)),
        image("c.jpg"),
        image("d.jpg", status="undecodable", error="cut short"),
        image("e.jpg", ("dog", 0.75, SMALL)),
    )
    write_shard(
        results,
        image("e.jpg", ("dog", 0.9375, SMALL), hours=DAY),  # scored again
        image("f.jpg", status="missing", error="f.jpg: no such key", hours=DAY),
        image("g.jpg", status="unreadable", error="g.jpg: no such key", hours=DAY),
        shard=1,
    )
    compact.run(CompactConfig(scored=results, output=results))


@pytest.fixture(scope="module")
def one_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    write_record(folder)
    return folder


@pytest.fixture
def record(one_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder where `results` holds one run. Nothing may be written there."""
    monkeypatch.chdir(one_run)


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    write_record(folder)
    write_shard(
        str(folder / "results"),
        image("a.jpg", ("cat", 0.75, SMALL)),
        image("b.jpg", ("cat", 0.5, SMALL), ("dog", 0.5, LARGE)),
        image("c.jpg"),
        image("e.jpg", ("dog", 0.5, SMALL)),
        run_id="r2",
        model_id="m2",
    )
    compact.run(CompactConfig(scored=str(folder / "results"), output=str(folder / "results")))
    return folder


@pytest.fixture
def two_models(two_runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder with a second run: its model detects one more dog in b.jpg, and none in a.jpg."""
    monkeypatch.chdir(two_runs)


def plain(rows: list[dict[str, Any]]) -> Answer:
    """Make answers comparable: sorted rows, numbers of one type, times in UTC."""

    def value(cell: Any) -> Any:
        if isinstance(cell, datetime.datetime):
            return cell.astimezone(datetime.UTC)
        return cell if isinstance(cell, (str, datetime.date)) else round(float(cell), 4)

    return sorted(tuple(value(cell) for cell in row.values()) for row in rows)


def ask_duckdb(code: str) -> Answer:
    with duckdb.connect() as connection:
        connection.execute(MACROS)
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(SETUP["duckdb"])
        return plain(connection.sql(code).to_arrow_table().to_pylist())


def ask_standard_sql(code: str) -> Answer:
    """Run the SQL for Athena and Spark in DuckDB, with views instead of their tables."""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for name, files in (("scored_rows", "scored/*/*"), ("detections", "detections/*")):
            source = f"read_parquet('results/{files}.parquet', union_by_name = true)"
            connection.execute(f"CREATE VIEW {name} AS FROM {source}")
        connection.execute(SETUP["athena+spark"])
        return plain(connection.sql(code).to_arrow_table().to_pylist())


def ask_polars(code: str) -> Answer:
    *statements, last = ast.parse(SETUP["polars"] + code).body
    assert isinstance(last, ast.Expr)
    names: dict[str, Any] = {}
    exec(compile(ast.Module(statements, []), "queries.md", "exec"), names)
    frame = eval(compile(ast.Expression(last.value), "queries.md", "eval"), names)
    return plain(frame.to_dicts())


ANSWERS: dict[str, Answer] = {
    "Which boxes of a rare class have the highest scores?": [
        ("a.jpg", 0.625, 0, 0, 640, 400),
        ("e.jpg", 0.938, *SMALL),
    ],
    "How many boxes and images has each class, and what is the mean score?": [
        ("cat", 5, 2, 0.725),  # (.875 + .8125 + .75 + .6875 + .5) / 5
        ("dog", 2, 2, 0.781),  # (.625 + .9375) / 2
    ],
    "Which images show at least three cats?": [("a.jpg", 4)],
    "Which images have no detections?": [("c.jpg",)],
    "How many images failed, by kind?": [
        ("missing", 1, 14.3),
        ("ok", 4, 57.1),
        ("undecodable", 1, 14.3),
        ("unreadable", 1, 14.3),
    ],
    "What failed, and why?": [
        ("missing", "no such key", 1, "f.jpg"),
        ("undecodable", "cut short", 1, "d.jpg"),
        ("unreadable", "no such key", 1, "g.jpg"),
    ],
    "Which classes occur together?": [("cat", "dog", 1)],
    "How many boxes and images are left above a threshold?": [
        (0.1, 9, 3),
        (0.2, 9, 3),
        (0.3, 8, 3),
        (0.4, 7, 3),
        (0.5, 7, 3),
        (0.6, 6, 2),
        (0.7, 4, 2),
        (0.8, 3, 2),
        (0.9, 1, 1),
    ],
    "Which images should be labelled next?": [("b.jpg", 0.5)],
    "Which objects fill more than half of their image?": [("a.jpg", "dog", 0.625, 0.833)],
    "Do the scores drift from day to day?": [
        (datetime.date(2026, 1, 1), "cat", 5, 0.725),
        (datetime.date(2026, 1, 1), "dog", 1, 0.625),
        (datetime.date(2026, 1, 2), "dog", 1, 0.938),
    ],
    "How far is a run, and how fast is it?": [
        (datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC), 4, 1),
        (datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), 3, 2),
    ],
    "Which images have to be scored again?": [("g.jpg",)],
}
COMPARISONS: dict[str, Answer] = {
    "Where do two models disagree?": [("a.jpg", "dog", "m1", 0.625), ("b.jpg", "dog", "m2", 0.5)],
    "How do two models compare?": [
        ("m1", "cat", 5, 2, 0.725),
        ("m1", "dog", 2, 2, 0.781),
        ("m2", "cat", 2, 2, 0.625),  # (.75 + .5) / 2
        ("m2", "dog", 2, 2, 0.5),
    ],
}


def test_every_question_is_answered_in_each_tool() -> None:
    assert list(QUESTIONS) == [*list(ANSWERS)[:11], *COMPARISONS, *list(ANSWERS)[11:]]
    assert {frozenset(blocks) for blocks in QUESTIONS.values()} == {
        frozenset({"duckdb", "polars", "athena+spark"})
    }


@pytest.mark.usefixtures("record")
@pytest.mark.parametrize("question", ANSWERS)
def test_each_tool_gives_the_answer_worked_out_by_hand(question: str) -> None:
    blocks = QUESTIONS[question]
    assert ask_duckdb(blocks["duckdb"]) == ANSWERS[question]
    assert ask_polars(blocks["polars"]) == ANSWERS[question]
    assert ask_standard_sql(blocks["athena+spark"]) == ANSWERS[question]


@pytest.mark.usefixtures("two_models")
@pytest.mark.parametrize("question", COMPARISONS)
def test_each_tool_compares_two_models(question: str) -> None:
    blocks, expected = QUESTIONS[question], COMPARISONS[question]
    assert ask_duckdb(blocks["duckdb"]) == expected
    assert ask_polars(blocks["polars"]) == expected
    assert ask_standard_sql(blocks["athena+spark"]) == expected


@pytest.mark.usefixtures("record")
def test_pandas_gives_the_same_counts() -> None:
    (code,) = re.findall(r"```python pandas\n(.*?)```", OPENING, re.DOTALL)
    *statements, last = ast.parse(code).body
    assert isinstance(last, ast.Expr)
    names: dict[str, Any] = {}
    exec(compile(ast.Module(statements, []), "queries.md", "exec"), names)
    frame = eval(compile(ast.Expression(last.value), "queries.md", "eval"), names)
    assert plain(frame.reset_index().to_dict("records")) == [("cat", 5, 0.725), ("dog", 2, 0.781)]


def write_grown_record(folder: Path) -> None:
    """Write a run of version 1, and a run with `generation` whose later rows come from a slow clock."""
    results = str(folder / "results")
    old = {"run_id": "r0", "columns": FIRST_COLUMNS, "format_version": 1}
    write_shard(results, image("a.jpg", ("cat", 0.5, SMALL)), **old)
    write_shard(results, image("a.jpg", ("cat", 0.75, SMALL), hours=1), shard=1, **old)
    write_shard(results, image("a.jpg", ("dog", 0.25, SMALL), hours=9), run_id="r1")
    write_shard(
        results,
        image("a.jpg", ("dog", 0.5, SMALL), hours=7, generation=2),
        image("a.jpg", ("dog", 0.75, SMALL), hours=8, generation=2),
        run_id="r1",
        shard=1,
    )
    write_shard(
        results, image("b.jpg", ("dog", 0.125, SMALL), hours=9, generation=1), run_id="r1", shard=2
    )
    write_shard(results, image("b.jpg", ("dog", 0.875, SMALL), generation=3), run_id="r1", shard=3)


GROWN = [("a.jpg", "r0", 0.75), ("a.jpg", "r1", 0.75), ("b.jpg", "r1", 0.875)]
"""The newest rows: highest generation, then latest time."""


def test_each_tool_keeps_the_highest_generation_then_the_latest_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_grown_record(tmp_path)
    monkeypatch.chdir(tmp_path)
    compact.run(CompactConfig(scored="results", output="results"))
    assert ask_duckdb("SELECT image_uri, run_id, detections[1].score FROM scored") == GROWN
    score = 'pl.col("detections").list.get(0).struct.field("score")'
    assert ask_polars(f'scored.select("image_uri", "run_id", {score}).collect()') == GROWN
    surest = "JOIN scored_rows USING (image_uri, run_id, scored_at)"
    sql = f"SELECT image_uri, run_id, scored_rows.detections[1].score FROM scored {surest}"
    assert ask_standard_sql(sql) == GROWN
    tables = Path("results/detections").glob("*.parquet")
    newest = [
        (row["image_uri"], path.stem, row["score"])
        for path in tables
        for row in pq.read_table(path).to_pylist()
    ]
    assert sorted(newest) == GROWN


def test_the_macros_read_a_record_of_version_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_shard(
        "results", image("a.jpg", ("cat", 0.5, SMALL)), columns=FIRST_COLUMNS, format_version=1
    )
    with duckdb.connect() as connection:
        connection.execute(MACROS)
        newest = connection.sql("FROM newest('results/scored/*/*.parquet')")
        assert newest.columns == SCORED.names
        assert newest.to_arrow_table()["generation"].to_pylist() == [None]
        boxes = connection.sql("FROM detections('results/scored/*/*.parquet')")
        assert boxes.columns == DETECTIONS.names


HIVE_TYPES = {
    pa.string(): "string",
    pa.int16(): "smallint",
    pa.int32(): "int",
    pa.int64(): "bigint",
    pa.float32(): "float",
}


def hive_type(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        inner = ", ".join(f"{f.name}: {hive_type(f.type)}" for f in kind.value_type)
        return f"array<struct<{inner}>>"
    if pa.types.is_timestamp(kind):
        return "timestamp"
    return "string" if pa.types.is_dictionary(kind) else HIVE_TYPES[kind]


@pytest.mark.parametrize(("name", "schema"), [("scored_rows", SCORED), ("detections", DETECTIONS)])
def test_athenas_tables_have_the_columns_of_the_schema(name: str, schema: pa.Schema) -> None:
    (columns,) = re.findall(rf"CREATE EXTERNAL TABLE {name} \((.*?)\)\nSTORED", OPENING, re.DOTALL)
    expected = ", ".join(f"{field.name} {hive_type(field.type)}" for field in schema)
    assert " ".join(columns.split()) == expected


@pytest.mark.usefixtures("two_models")
def test_the_macro_gives_the_same_table_as_compact() -> None:
    with duckdb.connect() as connection:
        connection.execute(MACROS)
        macro = connection.sql("FROM detections('results/scored/*/*.parquet') ORDER BY ALL")
        table = connection.sql("FROM 'results/detections/*.parquet' ORDER BY ALL")
        assert macro.columns == table.columns == DETECTIONS.names
        assert macro.types == table.types
        assert macro.fetchall() == table.fetchall()
        assert len(table.fetchall()) == 13
