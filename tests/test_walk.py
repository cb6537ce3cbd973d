"""Tests that run the commands of the tutorial and of the operations page, one after the other.

The folder is empty: the tutorial draws its images. Fewer are drawn, trainings are shorter, and the names of
bucket and catalogue are replaced.
"""

from __future__ import annotations

import io
import itertools
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import duckdb
import polars as pl
import pyarrow.parquet as pq
import pytest

from pipeline import storage
from tests.conftest import CHECKOUT
from tests.test_docs import commands

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

BUCKET, CATALOGUE = "s3://bucket/", "https://catalogue.example"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a reader of the tutorial."""
    return tmp_path_factory.mktemp("reader")


def run(words: list[str], folder: Path, **names: str) -> str:
    """Run a command of a page; give its output. `names` replaces names of bucket or catalogue."""
    for kind, name in names.items():
        words = [
            word.replace({"bucket": BUCKET, "catalogue": CATALOGUE}[kind], name) for word in words
        ]
    settings = dict(word.split("=", 1) for word in itertools.takewhile(is_setting, words))
    python, job, *flags = words[len(settings) :]
    assert python == "python"
    if job == "jobs/train.py":
        flags += ["--iterations", "24"]  # the recipe would take 1800 steps
    if job == "jobs/draw_scenes.py":
        flags += "--train 6 --val 2 --test 2 --score 10".split()
    done = subprocess.run(
        [sys.executable, str(CHECKOUT / job), *flags],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "RAY_memory_monitor_refresh_ms": "0"} | settings,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def is_setting(word: str) -> bool:
    return re.match(r"[A-Z_0-9]+=", word) is not None


@pytest.fixture(scope="module")
def walked(folder: Path) -> Iterator[tuple[Path, str]]:
    """The folder at the end of the tutorial, and the output of all its commands."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        yield (
            folder,
            "".join(run(words, folder) for words in commands(CHECKOUT / "docs/tutorial.md")),
        )


def test_the_tutorial_makes_all_files_that_it_names(walked: tuple[Path, str]) -> None:
    folder, output = walked
    rows = pl.read_parquet(folder / "my-results/scored/**/*.parquet")
    assert sorted(rows["status"]) == ["ok"] * 9 + ["undecodable"]
    boxes = duckdb.sql(f"SELECT count(*) FROM '{folder}/my-results/detections/**/*.parquet'")
    assert boxes.fetchall() == [(rows["num_detections"].sum(),)]
    for made in (
        "my-model/checkpoint/model.safetensors",
        "my-model/curves.png",
        "my-model-small/config.json",
        "my-ablations/ablations.md",
    ):
        assert (folder / made).stat().st_size > 0
    assert list(folder.glob("my-model/tensorboard/events*"))
    (page,) = folder.glob("my-results/**/*.html")
    assert "broken-000-cut.jpg" in page.read_text()
    assert '"evaluation":{' in page.read_text()
    assert list(folder.glob("my-results/coco/*.json"))
    assert "mAP" in output


def test_the_operations_page_works_on_the_results_of_the_tutorial(
    walked: tuple[Path, str], bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All is on S3, Delta too. The Iceberg catalogue is a file."""
    deltalake = pytest.importorskip("deltalake", reason="the extra `delta` is not installed")
    pytest.importorskip("pyiceberg.catalog", reason="the extra `iceberg` is not installed")
    folder, _ = walked
    for name, target in (
        ("practice/inbox", "inbox"),
        ("my-model", "model"),
        ("my-results", "results"),
    ):
        storage.upload_folder(folder / name, f"{bucket}/{target}")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("PYICEBERG_CATALOG__DEFAULT__WAREHOUSE", f"file://{tmp_path}/warehouse")
    names = {"bucket": f"{bucket}/", "catalogue": f"sqlite:///{tmp_path}/catalog.db"}
    output = [run(words, folder, **names) for words in commands(CHECKOUT / "docs/operations.md")]
    assert "10 images" in output[0]
    assert "$" in output[0]
    expected = pl.read_parquet(folder / "my-results/scored/**/*.parquet")["num_detections"].sum()
    options = {"AWS_ALLOW_HTTP": "true"}
    table = deltalake.DeltaTable(f"{bucket}/lake/detections", storage_options=options)
    files = [io.BytesIO(storage.read_bytes(uri)) for uri in table.file_uris()]
    assert sum(pq.read_metadata(file).num_rows for file in files) == expected
    assert list((tmp_path / "warehouse").rglob("*.parquet"))
