"""Chained URIs open images wherever images are named: the Detector, reports, lists, and docs/archives.md."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import duckdb
import pytest
from PIL import Image

from pipeline import Detector, compact, storage
from pipeline.config import CompactConfig, ReportConfig
from pipeline.report import run as report
from tests.pipeline.scored_runs import image, write_shard
from tests.pipeline.storage.archives.hostile import parquet_of, tar_of, zip_of
from tests.soak.images import drawn_images

DOCS = Path(__file__).resolve().parents[2] / "docs" / "archives.md"
IMAGES = list(drawn_images(3).values())
BOX = (8.0, 8.0, 40.0, 32.0)


@pytest.fixture
def uris(tmp_path: Path) -> list[str]:
    """One image in each kind of archive."""
    (tmp_path / "x.tar").write_bytes(tar_of(("d/100%.jpg", IMAGES[0])))
    (tmp_path / "x.zip").write_bytes(zip_of(("b.jpg", IMAGES[1])))
    (tmp_path / "x.parquet").write_bytes(parquet_of([IMAGES[2]]))
    return [
        f"tar://d/100%25.jpg::{tmp_path}/x.tar",
        f"zip://b.jpg::{tmp_path}/x.zip",
        f"parquet://0::{tmp_path}/x.parquet",
    ]


def test_the_detector_opens_them(uris: list[str], tiny_checkpoint: Path) -> None:
    detector = Detector(tiny_checkpoint, gpu=False, num_threads=1, min_score=0)
    opened, given = detector(uris), detector(IMAGES)
    assert [d.boxes.tolist() for d in opened] == [d.boxes.tolist() for d in given]
    assert all(len(detections) for detections in opened)
    assert detector(uris[0]).draw(uris[0]).size == (56, 40)
    with pytest.raises(storage.StorageError, match="tar://no.jpg"):
        detector(f"tar://no.jpg::{uris[0].partition('::')[2]}")


def test_the_gallery_of_a_report_shows_them(uris: list[str], tmp_path: Path) -> None:
    etags = [storage.stat(uri).etag for uri in uris]
    rows = [
        image(uri, ("cat", 0.9, BOX), size=(40, 56), etag=etag)
        for uri, etag in zip(uris, etags, strict=True)
    ]
    write_shard(f"{tmp_path}/results", *rows)
    report(ReportConfig(scored=f"{tmp_path}/results", output=f"{tmp_path}/report"))
    (page,) = (tmp_path / "report").rglob("*.html")
    text = page.read_text()
    pictures = [
        base64.b64decode(one) for one in re.findall(r"data:image/\w+;base64,([\w+/=]+)", text)
    ]
    sizes = [Image.open(io.BytesIO(data)).size for data in pictures]
    assert sizes.count((56, 40)) >= 3
    for uri in uris:
        assert json.dumps(uri).strip('"') in text.replace("\\/", "/")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCS.read_text(), re.DOTALL)


@pytest.fixture
def record(uris: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder whose results/ name the images as s3://bucket/x.tar and so on."""
    rows = [image(uri, ("cat", 0.9 - n / 10, BOX), size=(40, 56)) for n, uri in enumerate(uris)]
    write_shard(f"{tmp_path}/results", *rows, image("loose.jpg"))
    compact.run(CompactConfig(scored=f"{tmp_path}/results", output=f"{tmp_path}/results"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("record")
def test_the_queries_of_the_docs_tell_archives_apart(tmp_path: Path) -> None:
    per_archive, of_one = blocks("sql")
    found = duckdb.sql(per_archive).fetchall()
    assert sorted(found) == sorted(
        [(f"{tmp_path}/x.{kind}", 1, 1, 1) for kind in ("tar", "zip", "parquet")]
    )
    one = of_one.replace("s3://bucket/x.tar", f"{tmp_path}/x.tar")
    assert duckdb.sql(one).fetchall() == [(f"tar://d/100%25.jpg::{tmp_path}/x.tar", 1)]


@pytest.mark.usefixtures("record")
def test_the_recipe_of_the_docs_writes_the_best_boxes_as_pictures(tmp_path: Path) -> None:
    (recipe,) = (code for code in blocks("python") if "duckdb" in code)
    exec(compile(recipe, "archives.md", "exec"), {})
    made = sorted(tmp_path.glob("cat-*.png"))
    pictures = [path.read_bytes() for path in made]
    assert [Image.open(io.BytesIO(data)).size for data in pictures] == [(32, 24)] * 3
