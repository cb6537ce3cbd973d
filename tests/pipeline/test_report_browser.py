"""The report in a real Chromium: mouse and keys, wide and narrow windows, hostile names."""

from __future__ import annotations

import json
import logging
import os
import random
from pathlib import Path
from typing import Any
from urllib.parse import quote

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipeline import storage
from pipeline.config import ReportConfig
from pipeline.report import run
from pipeline.schema import DETECTION, SCORED, encode_parquet, scored_metadata
from tests.pipeline.chromium import Chromium
from tests.pipeline.scored_runs import image, write_shard

logger = logging.getLogger(__name__)

SCRIPT = "</script><script>document.title='owned'</script>"
TAG = "\"'><img src=x onerror=\"document.title='owned'\">"
CLASSES = ("cat", f"dog {SCRIPT}", TAG, "__proto__")
A, B = (10.0, 20.0, 300.0, 400.0), (300.0, 100.0, 420.0, 160.0)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images with boxes, one without, one that is broken; names and messages are hostile."""
    folder = tmp_path_factory.mktemp("report")
    names = ["1.jpg", "2.jpg", "3.jpg", f"4{TAG.replace('/', '')}.jpg"]
    for name in names:
        Image.new("RGB", (640, 480), "grey").save(folder / name)
    uris = [str(folder / name) for name in names]
    write_shard(
        str(folder),
        image(uris[0], ("cat", 0.9, A), ("cat", 0.3, B), etag=None, classes=CLASSES),
        image(uris[1], (CLASSES[1], 0.6, A), etag=None, classes=CLASSES, hours=0.5),
        image(uris[2], etag=None, classes=CLASSES, hours=1),
        image(uris[3], (TAG, 0.8, A), ("__proto__", 0.5, B), etag=None, classes=CLASSES),
        image(f"s3://{SCRIPT}{TAG}", status="undecodable", error=SCRIPT + TAG, classes=CLASSES),
        classes=CLASSES,
    )
    summary = run(ReportConfig(scored=str(folder), output=str(folder / f"out {TAG[:4]}.html")))
    assert summary.pictures == 4
    return Path(summary.uri)


def tiles(chromium: Chromium) -> list[str]:
    return texts(chromium, ".tile .caption b")


def texts(chromium: Chromium, selector: str) -> list[str]:
    """Return the texts of the elements of a selector."""
    contents: list[str] = chromium.value(
        f"[...document.querySelectorAll({json.dumps(selector)})].map(e => e.textContent)"
    )
    return contents


def test_hostile_names_are_shown_as_text_and_run_nothing(chromium: Chromium, report: Path) -> None:
    chromium.open(report)
    assert chromium.value("document.title") == "5 images, 4 boxes"
    assert chromium.value("document.scripts.length") == 2  # the data and our own
    sources = chromium.value("[...document.images].map(i => i.src.slice(0, 23))")
    assert set(sources) == {"data:image/jpeg;base64,"}
    options = texts(chromium, "#filter-class option")
    assert options == ["all", *CLASSES]
    assert sorted(texts(chromium, "#class-table bdi")) == sorted(CLASSES)
    assert SCRIPT + TAG in chromium.value("document.querySelector('.cause').textContent")
    examples = chromium.value("document.querySelector('.causes .uri').textContent")
    assert examples == f"s3://{SCRIPT}{TAG}"


def test_the_content_security_policy_blocks_an_injected_script(
    chromium: Chromium, report: Path
) -> None:
    chromium.open(report)
    chromium.value(
        "{const s = document.createElement('script'); s.textContent = \"document.title='owned'\";"
        " document.body.append(s)}"
    )
    assert chromium.value("document.title") == "5 images, 4 boxes"
    assert "Content Security Policy" in json.dumps(chromium.problems)
    chromium.problems.clear()


def test_pictures_are_filtered_by_class_and_score(chromium: Chromium, report: Path) -> None:
    chromium.open(report)
    assert len(tiles(chromium)) == 4
    assert chromium.value("document.querySelectorAll('.tile rect.over').length") == 4
    assert chromium.value("document.getElementById('filter-min-text').textContent") == "0.50"
    buttons = "[...document.querySelectorAll('#class-table button')]"
    chromium.value(f"{buttons}.find(b => b.textContent === 'cat').click()")
    assert tiles(chromium) == ["1.jpg"]
    assert chromium.value("document.querySelectorAll('.tile rect.over').length") == 1
    slide = "s.value = 0; s.dispatchEvent(new Event('input'))"
    chromium.value(f"{{const s = document.getElementById('filter-min'); {slide}}}")
    assert chromium.value("document.querySelectorAll('.tile rect.over').length") == 2
    slide = "s.value = 50; s.dispatchEvent(new Event('input'))"
    chromium.value(f"{{const s = document.getElementById('filter-min'); {slide}}}")
    assert chromium.value("document.querySelectorAll('.tile rect.over').length") == 1
    assert chromium.value("document.getElementById('filter-text').textContent").startswith(
        "1 box of “cat” in 1 image from score 0.50 on"
    )
    assert chromium.value("location.hash") == "#class=cat&from=0.5"
    chromium.value("document.querySelector('#filter button').click()")
    assert len(tiles(chromium)) == 4


def test_a_filter_in_the_address_is_applied(chromium: Chromium, report: Path) -> None:
    chromium.open(report, fragment="#show=empty")
    assert tiles(chromium) == ["3.jpg"]
    chromium.open(report, fragment="#class=cat&from=0.95")
    assert tiles(chromium) == []
    chromium.open(report, fragment="#class=nothing&from=abc")
    assert len(tiles(chromium)) == 4


def test_keys_open_a_picture_show_the_next_one_and_close_it(
    chromium: Chromium, report: Path
) -> None:
    chromium.open(report)
    chromium.value("document.querySelector('.tile').focus()")
    chromium.press("Enter")
    title = "document.getElementById('viewer-title').textContent"
    first = chromium.value(title)
    assert chromium.value("document.getElementById('viewer').open") is True
    chromium.press("ArrowRight")
    assert chromium.value(title) != first
    chromium.press("ArrowLeft")
    assert chromium.value(title) == first
    chromium.press("Escape")
    assert chromium.value("document.getElementById('viewer').open") is False
    assert chromium.value("document.activeElement.classList.contains('tile')") is True


def test_the_arrow_keys_show_the_numbers_of_each_bar(chromium: Chromium, report: Path) -> None:
    chromium.open(report)
    chromium.value("document.querySelector('#score-chart .bars').focus()")
    chromium.press("ArrowRight")
    read = chromium.value("document.querySelector('#score-chart .readout').textContent")
    assert read.startswith("0.00 to 0.01: 0 boxes; 5 at 0.00 or above")


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_wider_than_the_window(chromium: Chromium, report: Path, width: int) -> None:
    chromium.open(report, width=width)
    assert chromium.value("document.documentElement.scrollWidth <= innerWidth") is True
    chromium.value("document.querySelectorAll('summary').forEach(s => s.click())")
    assert chromium.value("document.documentElement.scrollWidth <= innerWidth") is True


def test_boxes_are_drawn_at_their_place_in_the_image(chromium: Chromium, report: Path) -> None:
    chromium.open(report, fragment="#class=cat&from=0.5")
    where: dict[str, Any] = chromium.value(
        "(() => {const [i, r] = ['img', '.over'].map("
        "s => document.querySelector('.tile ' + s).getBoundingClientRect());"
        " return {x: (r.x - i.x) / i.width, y: (r.y - i.y) / i.height,"
        " w: r.width / i.width, h: r.height / i.height}})()"
    )
    expected = {"x": 10 / 640, "y": 20 / 480, "w": 290 / 640, "h": 380 / 480}
    assert where == pytest.approx(expected, abs=0.01)


def test_counts_follow_the_slider_and_the_query_gives_the_same_boxes(
    chromium: Chromium, report: Path
) -> None:
    """The counts of the page are those of the tables, at each score and for each class."""
    text = "document.getElementById('{}').textContent"
    for fragment, boxes, images in (
        ("", 4, 3),
        ("#from=0.2", 5, 3),
        ("#from=0.61", 2, 2),
        ("#class=cat&from=0.2", 2, 1),
        ("#class=__proto__", 1, 1),
        (f"#class={quote(CLASSES[1])}&from=0.7", 0, 0),
        ("#from=0.4&to=0.7", 2, None),
    ):
        chromium.open(report, fragment=fragment)
        words = chromium.value(text.format("filter-text"))
        assert words.split(" ")[0] == str(boxes), (fragment, words)
        assert (f" in {images} image" in words) == (images is not None)
        query = chromium.value(text.format("query-text"))
        assert len(duckdb.execute(query).fetchall()) == boxes, query
    chromium.open(report, fragment="#from=0.2")
    assert texts(chromium, "#class-table .boxes")[0] == "2"  # both cats


def test_failures_are_grouped_by_kind(chromium: Chromium, report: Path) -> None:
    chromium.open(report)
    assert texts(chromium, "#failures h3") == [
        "undecodable: 1 image, 20.0%is damaged or not an image"
    ]


def test_an_address_can_be_copied_and_opened(chromium: Chromium, report: Path) -> None:
    chromium.open(report, fragment="#sort=name")
    chromium.value("document.querySelector('.tile').click()")
    link = chromium.value("document.querySelector('#viewer-facts a').href")
    assert link == (report.parent / "1.jpg").as_uri()
    chromium.value("navigator.clipboard.writeText = async (words) => { window.copied = words; }")
    chromium.value("document.querySelector('#viewer-facts .buttons button').click()")
    assert chromium.value("window.copied") == str(report.parent / "1.jpg")


# --- labels, and another run ---------------------------------------------------------------------

LABELS = {"1": [("cat", A), ("dog", B)], "2": [("dog", A)], "3": [("cat", A)]}
C = (20.0, 30.0, 90.0, 110.0)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of labelled images that compares two runs.

    Run a: image 1 has a true cat and misses the dog; image 2 takes the dog for a cat; image 3 has a false
    dog and misses the cat. Run b has the same boxes, except that on image 2.
    """
    folder = tmp_path_factory.mktemp("labelled")
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / "data" / part).mkdir(parents=True)
    (folder / "data/ImageSets/Main/test.txt").write_text("".join(f"{n}\n" for n in LABELS))
    uris = {}
    for name, objects in LABELS.items():
        path = folder / "data/JPEGImages" / f"{name}.jpg"
        Image.new("RGB", (640, 480), "grey").save(path)
        uris[name] = str(path)
        xml = "".join(
            f"<object><name>{label}</name><bndbox><xmin>{box[0] + 1}</xmin><ymin>{box[1] + 1}</ymin>"
            f"<xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"
            for label, box in objects
        )
        (folder / "data/Annotations" / f"{name}.xml").write_text(f"<annotation>{xml}</annotation>")
    for run_id, second in (("a", ("cat", 0.7, A)), ("b", ("dog", 0.6, A))):
        write_shard(
            str(folder),
            image(uris["1"], ("cat", 0.9, A), ("dog", 0.2, B), etag=None),
            image(uris["2"], second, etag=None),
            image(uris["3"], ("dog", 0.8, C), etag=None),
            run_id=run_id,
            model_id=f"model {run_id}",
        )
    summary = run(
        ReportConfig(
            scored=str(folder),
            output=str(folder),
            data=str(folder / "data"),
            run_id="a",
            compare="b",
            thumbnail=200,
        )
    )
    return Path(summary.uri)


def test_pictures_are_filtered_by_what_is_true_false_missed_and_of_a_wrong_class(
    chromium: Chromium, labelled: Path
) -> None:
    for fragment, names in (
        ("#show=true", ["1.jpg"]),
        ("#show=false", ["3.jpg"]),
        ("#show=wrong", ["2.jpg"]),
        ("#show=missed", ["1.jpg", "2.jpg", "3.jpg"]),
        ("#show=missed&class=cat", ["3.jpg"]),
        ("#show=missed&from=0.1", ["2.jpg", "3.jpg"]),  # the dog of image 1 has a box with score .2
        ("#show=empty", []),
    ):
        chromium.open(labelled, fragment=f"{fragment}&sort=name")
        assert tiles(chromium) == names, fragment
    chromium.open(labelled, fragment="#show=wrong")
    tags = set(texts(chromium, ".tile .tag"))
    assert tags == {"✗ cat 0.70", "missed: dog"}


def test_a_number_of_the_confusion_shows_its_pictures(chromium: Chromium, labelled: Path) -> None:
    """Objects in rows, boxes in columns: cat, dog, background."""
    chromium.open(labelled)
    cells = texts(chromium, ".matrix tbody td")
    assert cells == ["1", "0", "1", "1", "0", "1", "0", "1", ""]
    for place, name in ((0, "1.jpg"), (2, "3.jpg"), (3, "2.jpg"), (5, "1.jpg"), (7, "3.jpg")):
        chromium.value(f"document.querySelectorAll('.matrix tbody td')[{place}].firstChild.click()")
        assert tiles(chromium) == [name], place
    assert chromium.value("location.hash") == "#cell=-1,1"
    chromium.value("document.querySelector('#filter-text button').click()")
    assert len(tiles(chromium)) == 3


def test_precision_and_recall_are_marked_at_the_point(chromium: Chromium, labelled: Path) -> None:
    chromium.open(labelled)
    assert texts(chromium, "#accuracy table:not(.matrix) tbody tr:first-child td")[1:4] == [
        "2",
        "0.50",
        "0.50",
    ]
    marks = chromium.value(
        "[...document.querySelectorAll('.marks i')].map(i => [i.style.left, i.style.top])"
    )
    assert sorted(marks) == [["0%", "100%"], ["50%", "50%"]]  # dog, cat
    assert "33.3%" in texts(chromium, ".kpi b")  # 1 of 3 boxes is right


def test_two_runs_are_compared(chromium: Chromium, labelled: Path) -> None:
    chromium.open(labelled)
    rows = texts(chromium, "#comparison .two > :nth-child(2) tbody tr")
    assert rows == ["cat1101", "dog1010"]  # both, this, other, other class
    assert "In 66.7% of the compared images all boxes are the same" in chromium.value(
        "document.querySelector('#comparison .lede').textContent"
    )
    for button in (0, 1):
        chromium.value(
            f"document.querySelectorAll('#comparison .buttons button')[{button}].click()"
        )
        assert tiles(chromium) == ["2.jpg"]
    assert texts(chromium, ".tile .tag") == ["other run: dog 0.60"]


def test_a_box_is_shown_at_original_size(chromium: Chromium, labelled: Path) -> None:
    chromium.open(labelled, fragment="#show=false")
    chromium.value("document.querySelector('.tile').click()")
    chromium.value("document.querySelector('#viewer-facts button.class').click()")
    size = (
        "(() => {const r = document.querySelector('#viewer-crop .frame').getBoundingClientRect();"
        " return [r.width, r.height]})()"
    )
    # The box is 70 x 80 pixels, with a margin of 20.
    assert chromium.value(size) == [110, 120]
    natural = chromium.value(
        "(() => {const i = document.querySelector('#viewer-crop img');"
        " return [i.naturalWidth, i.naturalHeight]})()"
    )
    assert natural == [110, 120]
    chromium.value("document.querySelectorAll('#viewer-crop button')[1].click()")
    assert chromium.value(size) == [220, 240]


@pytest.mark.parametrize("width", [1280, 390])
def test_labels_and_a_second_run_fit_into_the_window(
    chromium: Chromium, labelled: Path, width: int
) -> None:
    chromium.open(labelled, width=width)
    assert chromium.value("document.documentElement.scrollWidth <= innerWidth") is True


def test_a_page_of_many_classes_and_boxes_opens_within_three_seconds(
    chromium: Chromium, tmp_path: Path
) -> None:
    """300 classes, 2,000 images: the page holds counts, not rows."""
    names = [f"class {k:03d}" for k in range(300)]
    rng = random.Random(0)
    rows = [
        image(
            f"s3://bucket/{i:05d}.jpg",
            *((rng.choice(names), rng.random(), A) for _ in range(20)),
            classes=names,
        )
        for i in range(2000)
    ]
    write_shard(str(tmp_path), *rows, classes=names)
    summary = run(ReportConfig(scored=str(tmp_path), output=str(tmp_path), gallery=0))
    assert summary.size_bytes < 300_000
    assert chromium.open_cpu_s(Path(summary.uri)) < 3
    assert chromium.value("document.querySelectorAll('#class-table tbody tr').length") == 300


@pytest.mark.long
def test_a_page_of_100_000_images_is_below_20_mb_and_opens_within_three_seconds(
    chromium: Chromium, tmp_path: Path
) -> None:
    """80 classes, a million boxes, 96 pictures, most with 50 boxes above the operating point."""
    names = [f"class {k:02d}" for k in range(80)]
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((1280, 960)).save(tmp_path / "1.jpg")
    for first in range(0, 100_000, 10_000):
        uris = [str(tmp_path / f"{n:06d}.jpg") for n in range(first, first + 10_000)]
        for uri in uris:
            os.symlink(tmp_path / "1.jpg", uri)
        write_many(
            str(tmp_path), uris, names, rng, shard=first // 10_000, crowded=200 * (not first)
        )
    summary = run(ReportConfig(scored=str(tmp_path), output=str(tmp_path)))
    assert (summary.images, summary.pictures) == (100_000, 96)
    assert summary.size_bytes < 20_000_000
    seconds = chromium.open_cpu_s(Path(summary.uri))
    logger.info("%.1f MB, opened in %.2f s of CPU", summary.size_bytes / 1e6, seconds)
    assert seconds < 3


def write_many(
    output: str,
    uris: list[str],
    names: list[str],
    rng: np.random.Generator,
    *,
    shard: int,
    crowded: int,
) -> None:
    """Write a shard of 10 boxes an image, and 50 of high score in each of the first `crowded` images."""
    numbers = np.full(len(uris), 10)
    numbers[:crowded] = 50
    ends = np.append(0, np.cumsum(numbers))
    corners = rng.uniform(0, 400, (ends[-1], 2)).astype(np.float32)
    sides = rng.uniform(20, 400, (ends[-1], 2)).astype(np.float32)
    scores = rng.uniform(0, 0.4, ends[-1]).astype(np.float32)
    scores[: 50 * crowded] = rng.uniform(0.5, 1, 50 * crowded)
    labels = rng.integers(0, len(names), ends[-1])
    boxes = pa.StructArray.from_arrays(
        [
            pa.array(np.array(names, object)[labels], pa.string()),
            pa.array(labels + 1, pa.int16()),
            pa.array(scores),
            *(pa.array(column) for column in (*corners.T, *(corners + sides).T)),
        ],
        fields=list(DETECTION),
    )
    columns: dict[str, Any] = {
        "image_uri": uris,
        "width": np.full(len(uris), 1280, np.int32),
        "height": np.full(len(uris), 960, np.int32),
        "status": pa.array(["ok"] * len(uris)).dictionary_encode(),
        "model_id": ["m1"] * len(uris),
        "run_id": ["r1"] * len(uris),
        "num_detections": numbers.astype(np.int32),
        "detections": pa.ListArray.from_arrays(pa.array(ends, pa.int32()), boxes),
    }
    arrays = [
        pa.array(columns[f.name], f.type)
        if isinstance(columns.get(f.name), list | np.ndarray)
        else columns[f.name].cast(f.type)
        if f.name in columns
        else pa.nulls(len(uris), f.type)
        for f in SCORED
    ]
    table = pa.Table.from_arrays(arrays, schema=SCORED)
    data = encode_parquet(table, metadata=scored_metadata(names, "m1"))
    storage.write_bytes(f"{output}/scored/r1/{shard:08d}.parquet", data)
