"""The counts of a report are those of the table: at every score, for odd names, classes and folders."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import duckdb
import numpy as np
import pytest
from PIL import Image

from pipeline import storage
from pipeline.config import ReportConfig
from pipeline.errors import UserError
from pipeline.report import run
from pipeline.results.figures import figures, shortest
from pipeline.results.scored import find_run
from pipeline.results.tables import load_run
from pipeline.schema import FIRST_COLUMNS
from tests.pipeline.chromium import Chromium
from tests.pipeline.scored_runs import image, write_shard

SQUARE = (10.0, 20.0, 60.0, 80.0)
TEXT = "document.getElementById('{}').textContent"


def write_points(folder: Path, points: dict[str, float]) -> None:
    config = {"config": {}, "checkpoint": {"operating_points": points}}
    storage.write_bytes(f"{folder}/runs/r1/config.json", json.dumps(config).encode())


def edges() -> list[float]:
    """Each hundredth as float32, and its two neighbours."""
    whole = np.float32(np.arange(101) / 100)
    both = [np.nextafter(whole, np.float32(side)) for side in (-1, 2)]
    scores = np.concatenate([whole, *both]).astype(np.float64)
    return [float(score) for score in scores if 0 <= score <= 1]


def test_a_score_is_in_the_bin_that_begins_with_it(tmp_path: Path) -> None:
    """.53 as float32, times 100, is below 53; the float32 number below .33, times 100, is 33."""
    scores = edges()
    write_shard(str(tmp_path), image("1.jpg", *(("cat", score, SQUARE) for score in scores)))
    with load_run(find_run(str(tmp_path)), memory_gib=0.5, temp_folder=None) as tables:
        found = figures(tables)["scores"][0]
    bounds = np.float32(np.arange(101) / 100)
    for place in range(100):
        top = np.inf if place == 99 else bounds[place + 1]
        assert found[place] == sum(bounds[place] <= score < top for score in scores), place


@pytest.mark.parametrize("value", [0.1, 0.53, 0.123456789, 1e-7, 1 / 3])
def test_a_score_is_written_so_that_it_is_read_back(value: float) -> None:
    assert np.float32(shortest(float(np.float32(value)))) == np.float32(value)
    assert len(str(shortest(float(np.float32(value))))) <= 12


POINTS = {"cat": 0.345678, "dog": 0.53, "owl": 0.0000123}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[str, str, float]]]:
    """A page of 30 images whose names and folder are odd, and its boxes: image, class, score.

    Scores lie on the points, on hundredths and beside them. Two images were scored again.
    """
    folder = tmp_path_factory.mktemp("it's [a] *run? é😀")
    rng = np.random.default_rng(0)
    pool = [*edges(), *(float(np.float32(point)) for point in POINTS.values()), *rng.random(200)]
    pool += [float(np.nextafter(np.float32(point), np.float32(0))) for point in POINTS.values()]
    rows, truth = [], []
    for number in range(30):
        uri = str(folder / f"{number:02d} it's é😀 #%.jpg")
        Image.new("RGB", (100, 100), "grey").save(uri)
        found = [
            (str(rng.choice(list(POINTS))), float(np.float32(rng.choice(pool))), SQUARE)
            for _ in range(rng.integers(0, 50))
        ]
        truth += [(uri, label, score) for label, score, _ in found]
        rows.append(image(uri, *found, etag=None, size=(100, 100), classes=list(POINTS), hours=2))
    old = [
        image(row["image_uri"], ("cat", 0.9, SQUARE), etag=None, classes=list(POINTS))
        for row in rows[:2]
    ]
    write_shard(str(folder), *rows[:20], classes=list(POINTS))
    write_shard(str(folder), *old, *rows[20:], classes=list(POINTS), shard=1)
    write_points(folder, POINTS)
    summary = run(ReportConfig(scored=str(folder), output=str(folder), gallery=30, thumbnail=40))
    assert summary.pictures == 30
    return Path(summary.uri), truth


FILTERS: list[tuple[str | None, int | None, int]] = [
    (label, low, high)
    for label, bounds in (
        (None, ((None, 100), (None, 60), (None, 35), (0, 100), (33, 100), (53, 59))),
        ("cat", ((None, 100), (None, 34), (None, 60), (36, 72), (9, 97))),
        ("owl", ((None, 1), (53, 100))),
    )
    for low, high in bounds
]


def test_counts_pictures_and_query_of_a_filter_agree_with_the_boxes(
    chromium: Chromium, page: tuple[Path, list[tuple[str, str, float]]]
) -> None:
    uri, boxes = page
    for label, low, high in FILTERS:
        points = {name: float(np.float32(point)) for name, point in POINTS.items()}
        expected = [
            (name, one, score)
            for name, one, score in boxes
            if label in (None, one)
            and score >= (points[one] if low is None else np.float32(low / 100))
            and (high == 100 or score < np.float32(high / 100))
        ]
        words = [f"class={label}" if label else "", f"from={low / 100}" if low is not None else ""]
        words.append(f"to={high / 100}" if high < 100 else "")
        chromium.open(uri, fragment="#" + "&".join(filter(None, words)))
        text = chromium.value(TEXT.format("filter-text"))
        assert text.split(" ")[0] == f"{len(expected):,}", (label, low, high, text)
        if " in " in text.split(" from ")[0]:
            images = len({name for name, _, _ in expected})
            assert f" in {images} image" in text, (label, low, high, text)
        found = duckdb.execute(chromium.value(TEXT.format("query-text"))).fetchall()
        assert sorted(row[:2] for row in found) == sorted(row[:2] for row in expected)
        chromium.value("document.querySelector('#more:not([hidden])')?.click()")
        drawn = chromium.value("document.querySelectorAll('.tile rect.over').length")
        assert drawn == len(expected), (label, low, high)


def test_images_without_a_box_follow_the_slider(
    chromium: Chromium, page: tuple[Path, list[tuple[str, str, float]]]
) -> None:
    uri, boxes = page
    for low in (0, 98):
        some = {name for name, _, score in boxes if score >= low / 100}
        chromium.open(uri, fragment=f"#show=empty&from={low / 100}")
        chromium.value("document.querySelector('#more:not([hidden])')?.click()")
        assert chromium.value("document.querySelectorAll('.tile').length") == 30 - len(some)
        assert chromium.value("document.querySelectorAll('.tile rect.over').length") == 0


def test_the_query_of_many_classes_has_the_point_of_each(
    chromium: Chromium, tmp_path: Path
) -> None:
    names = [f"it's {k}" for k in range(60)]
    found = [(name, 0.3 + k / 100, SQUARE) for k, name in enumerate(names)]
    write_shard(str(tmp_path), image("1.jpg", *found, classes=names), classes=names)
    write_points(
        tmp_path, {name: 0.299 + k / 100 + 0.002 * (k % 2) for k, name in enumerate(names)}
    )
    chromium.open(Path(run(ReportConfig(scored=str(tmp_path), output=str(tmp_path))).uri))
    assert chromium.value(TEXT.format("filter-text")).startswith("30 boxes of all classes in 1 im")
    query = chromium.value(TEXT.format("query-text"))
    assert len(duckdb.execute(query).fetchall()) == 30


def test_the_query_reads_a_run_of_version_1_that_has_older_rows(
    chromium: Chromium, tmp_path: Path
) -> None:
    old = {"columns": FIRST_COLUMNS, "format_version": 1}
    write_shard(str(tmp_path), image("1.jpg", ("cat", 0.9, SQUARE)), **old)
    write_shard(str(tmp_path), image("1.jpg", ("cat", 0.8, SQUARE), hours=1), shard=1, **old)
    chromium.open(Path(run(ReportConfig(scored=str(tmp_path), output=str(tmp_path))).uri))
    rows = duckdb.execute(chromium.value(TEXT.format("query-text"))).fetchall()
    assert [row[2] for row in rows] == [pytest.approx(0.8)]


def test_margins_of_an_svm_are_counted_at_both_ends_of_the_slider(
    chromium: Chromium, tmp_path: Path
) -> None:
    write_shard(str(tmp_path), image("1.jpg", ("cat", 7.5, SQUARE), ("cat", -3.0, SQUARE)))
    made = Path(run(ReportConfig(scored=str(tmp_path), output=str(tmp_path))).uri)
    for fragment, boxes in (("", 1), ("#from=0", 2), ("#from=0.99", 1)):
        chromium.open(made, fragment=fragment)
        assert chromium.value(TEXT.format("filter-text")).startswith(f"{boxes} box"), fragment
        query = chromium.value(TEXT.format("query-text"))
        assert len(duckdb.execute(query).fetchall()) == boxes


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_box_that_is_no_number_is_refused(tmp_path: Path, number: float) -> None:
    write_shard(str(tmp_path), image("1.jpg", ("cat", 0.9, (0.0, 0.0, 5.0, number))))
    with pytest.raises(
        UserError, match=r"1 boxes with a score or an edge .* one of them in 1\.jpg"
    ):
        run(ReportConfig(scored=str(tmp_path), output=str(tmp_path)))
    write_shard(str(tmp_path), image("1.jpg", ("cat", number, SQUARE)))
    with pytest.raises(UserError, match="no finite number"):
        run(ReportConfig(scored=str(tmp_path), output=str(tmp_path)))


# --- names, empty runs, unknown classes ---------------------------------------------------------


def test_images_in_archives_have_the_names_of_their_members(
    chromium: Chromium, tmp_path: Path
) -> None:
    import io
    import tarfile

    data = io.BytesIO()
    Image.new("RGB", (100, 100), "grey").save(data, "JPEG")
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name in ("b/2.jpg", "a/3.jpg"):
            entry = tarfile.TarInfo(name)
            entry.size = len(data.getvalue())
            archive.addfile(entry, io.BytesIO(data.getvalue()))
    rows = [
        image(f"tar://{name}::{tmp_path}/x.tar", etag=None, size=(100, 100))
        for name in ("b/2.jpg", "a/3.jpg")
    ]
    write_shard(str(tmp_path), *rows)
    summary = run(ReportConfig(scored=str(tmp_path), output=str(tmp_path)))
    assert summary.pictures == 2
    chromium.open(Path(summary.uri), fragment="#sort=name")
    names = "[...document.querySelectorAll('.tile b')].map(e => [e.textContent, e.title])"
    assert chromium.value(names) == [
        ["2.jpg", rows[0]["image_uri"]],
        ["3.jpg", rows[1]["image_uri"]],
    ]


def test_a_file_uri_has_a_link_to_the_file(chromium: Chromium, tmp_path: Path) -> None:
    path = tmp_path / "a #1%.jpg"
    Image.new("RGB", (100, 100), "grey").save(path)
    write_shard(str(tmp_path), image(f"file://{path}", etag=None, size=(100, 100)))
    chromium.open(Path(run(ReportConfig(scored=str(tmp_path), output=str(tmp_path))).uri))
    chromium.value("document.querySelector('.tile').click()")
    link = chromium.value("document.querySelector('#viewer-facts a').href")
    assert link == f"file://{quote(str(path))}"


def test_a_share_of_nothing_is_no_number(chromium: Chromium, tmp_path: Path) -> None:
    """A run without a result: no percentage, no rate and no average is claimed."""
    write_shard(str(tmp_path), image("1.jpg", status="missing", error="no such key"))
    chromium.open(Path(run(ReportConfig(scored=str(tmp_path), output=str(tmp_path))).uri))
    body = chromium.value("document.querySelector('main').innerText")
    assert "No image has a result." in body
    assert "There is no box from score 0.50 on." in body
    assert "NaN" not in body
    kpis = chromium.value("[...document.querySelectorAll('.kpi b')].map(e => e.textContent)")
    assert kpis[:4] == ["0.0%", "–", "–", "1"]


def test_objects_of_unknown_classes_are_named_and_left_out(
    chromium: Chromium, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / "data" / part).mkdir(parents=True)
    (tmp_path / "data/ImageSets/Main/test.txt").write_text("1\n")
    path = tmp_path / "data/JPEGImages/1.jpg"
    Image.new("RGB", (100, 100), "grey").save(path)
    objects = "".join(
        f"<object><name>{name}</name><bndbox><xmin>11</xmin><ymin>21</ymin><xmax>60</xmax>"
        "<ymax>80</ymax></bndbox></object>"
        for name in ("fox", "cat", "Dog")
    )
    (tmp_path / "data/Annotations/1.xml").write_text(f"<annotation>{objects}</annotation>")
    scored: dict[str, Any] = {"etag": None, "size": (100, 100)}
    write_shard(
        str(tmp_path),
        image(str(path), ("cat", 0.9, SQUARE), **scored),
        image(str(tmp_path / "2.jpg"), ("cat", 0.9, SQUARE), **scored),  # without labels
    )
    config = {"scored": str(tmp_path), "output": str(tmp_path), "data": (str(tmp_path / "data"),)}
    made = Path(run(ReportConfig(**config, rename=("Dog=dog",))).uri)
    assert "1 labelled objects are left out" in caplog.text
    chromium.open(made)
    lede = chromium.value("document.querySelector('#accuracy .lede').textContent")
    assert lede.endswith("because the detector does not have the class: fox (1 object).")
    (data,) = re.findall(r'id="data">(.*?)</script>', made.read_text())
    found = json.loads(data)["evaluation"]
    assert (found["true"], found["false"], found["missed"]) == (1, 0, 1)
