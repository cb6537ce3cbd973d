"""The report in a real Chromium: mouse and keys, wide and narrow windows, hostile names."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.config import ReportConfig
from pipeline.report import run
from tests.pipeline.chromium import NAMES, Chromium, find
from tests.pipeline.scored_runs import image, write_shard

SCRIPT = "</script><script>document.title='owned'</script>"
TAG = "\"'><img src=x onerror=\"document.title='owned'\">"
CLASSES = ("cat", f"dog {SCRIPT}", TAG, "__proto__")
A, B = (10.0, 20.0, 300.0, 400.0), (300.0, 100.0, 420.0, 160.0)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    program = find()
    if program is None:
        pytest.skip(f"no Chromium on PATH ({', '.join(NAMES)}): Debian has it as chromium")
    with Chromium(program, tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(autouse=True)
def no_problems(request: pytest.FixtureRequest) -> Iterator[None]:
    """Check that there was no exception, no error in the console and no request."""
    yield
    if "chromium" in request.fixturenames:
        browser: Chromium = request.getfixturevalue("chromium")
        problems, browser.problems = browser.problems, []
        assert problems == []


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
    assert chromium.value("document.title") == "5 images, 5 boxes"
    assert chromium.value("document.scripts.length") == 2  # the data and our own
    sources = chromium.value("[...document.images].map(i => i.src.slice(0, 23))")
    assert set(sources) == {"data:image/jpeg;base64,"}
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
    assert chromium.value("document.title") == "5 images, 5 boxes"
    assert "Content Security Policy" in json.dumps(chromium.problems)
    chromium.problems.clear()


def test_pictures_are_filtered_by_class_and_score(chromium: Chromium, report: Path) -> None:
    chromium.open(report)
    assert len(tiles(chromium)) == 4
    buttons = "[...document.querySelectorAll('#class-table button')]"
    chromium.value(f"{buttons}.find(b => b.textContent === 'cat').click()")
    assert tiles(chromium) == ["1.jpg"]
    assert chromium.value("document.querySelectorAll('.tile rect.over').length") == 2
    slide = "s.value = 50; s.dispatchEvent(new Event('input'))"
    chromium.value(f"{{const s = document.getElementById('filter-min'); {slide}}}")
    assert chromium.value("document.querySelectorAll('.tile rect.over').length") == 1
    assert chromium.value("document.getElementById('filter-text').textContent").startswith(
        "1 box of “cat”"
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
    assert chromium.open(Path(summary.uri)) < 3
    assert chromium.value("document.querySelectorAll('#class-table tbody tr').length") == 300
