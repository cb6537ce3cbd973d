"""Daft's feed of images: the benchmark runs, and each way delivers every image."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import feed
from benchmarks.config import FeedConfig
from tests.peers.environment import require_peers

pytestmark = pytest.mark.peers


def test_each_way_delivers_every_image(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    require_peers()
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    rng = np.random.default_rng(0)
    images = tmp_path / "images"
    images.mkdir()
    for number in range(20):
        pixels = rng.integers(0, 255, (60, 80, 3), np.uint8)
        Image.fromarray(pixels).save(images / f"{number}.jpg")
    output = tmp_path / "output"
    feed.run(FeedConfig(images=images, count=200, rounds=1, output=output))
    lines = capsys.readouterr().out.splitlines()
    names = {line[:22].strip() for line in lines if line[:22].strip()}
    assert {"decode, 1 thread", "header", "twice", "read_images", "daft"} <= names
    rates = json.loads((output / "results.json").read_text())["results"]["images_per_second"]
    assert all(rate > 0 for values in rates.values() for rate in values)
