"""Tests of the benchmark of archives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.archives import run
from benchmarks.config import ArchivesConfig


@pytest.mark.long
def test_members_are_listed_and_read(tmp_path: Path) -> None:
    """Reading from tars takes a fraction of the requests that loose objects take."""
    Image.new("RGB", (400, 300)).save(tmp_path / "photo.jpg")
    config = ArchivesConfig(
        image=tmp_path / "photo.jpg",
        members=3000,
        tars=3,
        photographs=1200,
        output=tmp_path / "out",
    )
    run(config)
    results = json.loads((tmp_path / "out/results.json").read_text())["results"]
    listed, packed, loose = results
    assert (listed["images"], packed["images"], loose["images"]) == (3000, 1200, 1200)
    assert 0 < listed["plan_bytes"] < 100 * 3000
    assert packed["requests"] < 0.02 * 1200 < 1200 <= loose["requests"]
