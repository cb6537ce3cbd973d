"""The benchmarks that compare with Daft run, and each way delivers every image."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import feed, score
from benchmarks.config import FeedConfig, ScoreBenchmarkConfig
from tests.peers.environment import require_peers

pytestmark = pytest.mark.peers


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    rng = np.random.default_rng(0)
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(20):
        pixels = rng.integers(0, 255, (60, 80, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpg")
    return folder


def test_each_way_delivers_every_image(
    tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    require_peers()
    output = tmp_path / "output"
    feed.run(FeedConfig(images=images, count=200, rounds=1, output=output))
    lines = capsys.readouterr().out.splitlines()
    names = {line[:22].strip() for line in lines if line[:22].strip()}
    assert {"decode, 1 thread", "header", "twice", "read_images", "daft"} <= names
    rates = json.loads((output / "results.json").read_text())["results"]["images_per_second"]
    assert all(rate > 0 for values in rates.values() for rate in values)


def test_daft_detects_in_every_image(
    tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    require_peers()
    config = ScoreBenchmarkConfig(
        images=images,
        backbone="tiny",
        scale=64,
        proposals="rpn",
        max_proposals=20,
        count=64,
        rounds=1,
        daft=True,
        output=tmp_path / "output",
    )
    score.run(config)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Daft")]
    assert float(line.split()[-2]) > 0
