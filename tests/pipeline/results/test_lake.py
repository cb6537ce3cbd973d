"""Ray writes the boxes of a run as Delta and Iceberg tables; other libraries read them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import duckdb
import pytest

from pipeline import export, storage
from pipeline.config import ExportConfig
from pipeline.errors import UserError
from tests.pipeline.scored_runs import image, write_shard

BOX = (1.0, 2.0, 30.0, 40.0)
FOUND = [("a.jpg", "cat", 0.875), ("b.jpg", "cat", 0.5), ("a.jpg", "dog", 0.25)]

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore:Delete operation did not match any records"
)


def run_of(output: str, run_id: str, found: list[tuple[str, str, float]]) -> str:
    names = sorted({name for name, _, _ in found} | {"empty.jpg"})
    rows = [
        image(
            f"s3://photos/{name}",
            *((label, score, BOX) for of, label, score in found if of == name),
        )
        for name in names
    ]
    write_shard(output, *rows, image("s3://photos/broken.jpg", status="undecodable"), run_id=run_id)
    return output


def told(rows: list[dict[str, Any]]) -> list[tuple[str, str, float]]:
    assert {(r["x_min"], r["y_min"], r["x_max"], r["y_max"], r["model_id"]) for r in rows} <= {
        (*BOX, "m1")
    }
    found = [(storage.basename(r["image_uri"]), r["label"], r["score"]) for r in rows]
    return sorted(found, key=lambda row: (row[1], -row[2]))


@pytest.mark.usefixtures("ray_cluster")
def test_a_delta_table_holds_the_run_written_last(tmp_path: Path) -> None:
    """On disk: deltalake holds the interpreter while it lists, which the S3 server of this process needs."""
    deltalake = pytest.importorskip("deltalake", reason="the extra `delta` is not installed")
    results, table = str(tmp_path / "results"), str(tmp_path / "lake" / "detections")
    run_of(results, "r1", FOUND)
    run_of(results, "r2", FOUND[:1])
    for run_id, expected in (("r1", FOUND), ("r1", FOUND), ("r2", FOUND[:1])):
        config = ExportConfig(scored=results, run_id=run_id, output=table, format="delta")
        made = export.run(config)
        assert (made.uris, made.images, made.boxes) == (
            (table,),
            3 + (run_id == "r1"),
            len(expected),
        )
        found = deltalake.DeltaTable(table).to_pyarrow_dataset()
        assert told(duckdb.arrow(found).to_arrow_table().to_pylist()) == expected
    assert deltalake.DeltaTable(table).version() == 2


@pytest.mark.usefixtures("ray_cluster")
def test_an_iceberg_table_holds_the_run_written_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYICEBERG_CATALOG__DEFAULT__URI", f"sqlite:///{tmp_path}/catalog.db")
    monkeypatch.setenv("PYICEBERG_CATALOG__DEFAULT__WAREHOUSE", f"file://{tmp_path}/warehouse")
    # It reads its environment when it is imported.
    catalogs = pytest.importorskip(
        "pyiceberg.catalog", reason="the extra `iceberg` is not installed"
    )
    settings = {
        "uri": f"sqlite:///{tmp_path}/catalog.db",
        "warehouse": f"file://{tmp_path}/warehouse",
    }
    results = run_of(str(tmp_path / "results"), "r1", FOUND)
    config = ExportConfig(scored=results, output="photos.boxes", format="iceberg", min_score=0.3)
    for _ in range(2):
        export.run(config)
        table = catalogs.load_catalog("default", **settings).load_table("photos.boxes")
        assert told(table.scan().to_arrow().to_pylist()) == FOUND[:2]
    assert (
        len(told(table.scan(row_filter="label = 'cat' and score > 0.8").to_arrow().to_pylist()))
        == 1
    )


def test_mistakes_are_reported_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = run_of(str(tmp_path / "results"), "r1", FOUND)
    for output in ("s3://bucket/table", "boxes", ".boxes"):
        with pytest.raises(UserError, match=r"NAMESPACE\.TABLE"):
            export.run(ExportConfig(scored=results, output=output, format="iceberg"))
    with pytest.raises(UserError, match="--limit: has no effect with --format delta"):
        ExportConfig(scored=results, output="x", format="delta", limit=1)
    monkeypatch.setitem(sys.modules, "deltalake", None)
    with pytest.raises(UserError, match=r"fastrcnn-ray\[delta\]"):
        export.run(ExportConfig(scored=results, output=str(tmp_path / "x"), format="delta"))
