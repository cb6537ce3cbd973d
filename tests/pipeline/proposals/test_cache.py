"""Proposals of labelled images are computed once and cached, and a bad image is reported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fastrcnn.config import ProposalConfig
from fastrcnn.proposals.tiled import propose_on_tiles
from fastrcnn.tiles import Tiling
from pipeline import storage
from pipeline.images import SampleRules
from pipeline.proposals import cache
from pipeline.proposals.cache import (
    compute_proposals,
    propose_batch,
    settings_name,
)
from pipeline.proposals.reading import unplanned
from pipeline.proposals.table import boxes_of
from tests.pipeline.hostile_bytes import encode, photo
from tests.pipeline.poison import DEADLY_WIDTH, propose_batch_or_die

GRID = ProposalConfig(name="grid", max_boxes=30)


@pytest.fixture
def images(tmp_path: Path) -> str:
    for index in range(4):
        Image.fromarray(np.zeros((60, 40 + index, 3), np.uint8)).save(tmp_path / f"{index}.png")
    (tmp_path / "broken.png").write_bytes(b"not an image")
    return str(tmp_path)


def test_a_bad_image_is_a_row_with_its_error(images: str) -> None:
    rows = unplanned(storage.as_named(storage.list_objects(images)))
    table = pa.concat_tables(propose_batch(rows, GRID))
    errors = dict(zip(table["image_uri"].to_pylist(), table["error"].to_pylist(), strict=True))
    bad = [uri for uri, error in errors.items() if error]
    assert [storage.basename(uri) for uri in bad] == ["broken.png"]
    assert errors[bad[0]].startswith("undecodable: ")
    assert [len(b) if b is not None else None for b in boxes_of(table["boxes"])].count(None) == 1
    assert table["width"].to_pylist()[:4] == [40, 41, 42, 43]


def test_a_jpeg_without_its_end_has_proposals_and_a_log_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cut.jpg").write_bytes(encode(photo())[:-2])
    rows = unplanned(storage.as_named(storage.list_objects(str(tmp_path))))
    (table,) = propose_batch(rows, GRID)
    assert table["error"].to_pylist() == [None]
    assert f"{tmp_path}/cut.jpg: the file lacks its end: all of its rows are there" in caplog.text
    (table,) = propose_batch(rows, GRID, truncated="refuse")
    assert "lacks its end" in table["error"][0].as_py()


def test_each_choice_for_jpegs_without_their_end_has_its_own_folder() -> None:
    assert settings_name(GRID, truncated="warn") == settings_name(GRID)
    assert settings_name(GRID, truncated="refuse") == f"{settings_name(GRID)}-whole"


def test_tiles_have_a_cache_of_their_own() -> None:
    tilings = (None, Tiling(side=640), Tiling(side=640, overlap=0.3), Tiling(side=800))
    assert len({settings_name(GRID, tiling=tiling) for tiling in tilings}) == 4
    assert settings_name(GRID, tiling=None) == settings_name(GRID)


def test_a_row_holds_the_proposals_of_the_image_and_of_each_tile(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (60, 90, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    rows = unplanned(storage.as_named(storage.list_objects(str(tmp_path))))
    tiling = Tiling(side=60)
    (table,) = propose_batch(rows, GRID, tiling=tiling)
    (boxes,) = boxes_of(table["boxes"])
    assert boxes is not None
    assert boxes.tolist() == propose_on_tiles(pixels, GRID, tiling).tolist()
    assert GRID.max_boxes < len(boxes) <= 3 * GRID.max_boxes  # two tiles


def test_each_set_of_settings_has_its_own_folder() -> None:
    names = {settings_name(c) for c in (GRID, ProposalConfig(name="grid"), ProposalConfig())}
    assert len(names) == 3


def test_another_range_or_other_bands_have_another_folder() -> None:
    rules = [
        SampleRules(),
        SampleRules(range=(0, 4095)),
        SampleRules(range=(0, 1023)),
        SampleRules(bands=(4, 3, 2)),
    ]
    names = [settings_name(ProposalConfig(), each) for each in rules]
    assert names[0] == "selective_search-8dac780c"
    assert len(set(names)) == 4


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "selective_search-8dac780c"),
        ({"name": "grid", "max_boxes": 300}, "grid-41442262"),
        ({"mode": "small", "seed": 7}, "selective_search-e36f39f4"),
        ({"name": "opencv", "mode": "quality"}, "opencv-c16244bc"),
        ({"name": "grid", "shapes": ((0.25, 0.5), (0.5, 0.5))}, "grid-cb52ee60"),
        ({"name": "rpn"}, "rpn-633e85f6"),
        ({"mode": "exact", "max_boxes": 1000, "min_size": 12}, "selective_search-0b3c02dd"),
    ],
)
def test_folders_have_the_same_names_as_on_2026_11_29(settings: dict[str, Any], name: str) -> None:
    assert settings_name(ProposalConfig(**settings)) == name


def test_a_field_added_later_changes_the_folder_only_if_it_is_set() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Later(ProposalConfig):
        overlap: float = 0.0

    Later.__name__ = "ProposalConfig"
    assert settings_name(Later()) == "selective_search-8dac780c"
    assert settings_name(Later(overlap=0.5)) != "selective_search-8dac780c"


@pytest.mark.usefixtures("ray_cluster")
def test_only_new_and_changed_images_are_computed(
    images: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cache = str(tmp_path_factory.mktemp("cache"))
    first, errors = compute_proposals(storage.list_objects(images), GRID, cache)
    assert (len(first), len(errors)) == (4, 1)
    again, _ = compute_proposals(storage.list_objects(images), GRID, cache)
    assert again.keys() == first.keys()
    folder = Path(cache) / settings_name(GRID)
    rows = [
        pq.read_table(p)["image_uri"].to_pylist()
        for p in sorted(folder.iterdir(), key=lambda p: p.stat().st_mtime_ns)
    ]
    # The second run tried only the broken image again.
    assert sorted(len(r) for r in rows) == [1, 5]
    Image.fromarray(np.zeros((90, 90, 3), np.uint8)).save(Path(images) / "0.png")
    changed, _ = compute_proposals(storage.list_objects(images), GRID, cache)
    assert changed[str(Path(images) / "0.png")][0].tolist() == [0, 0, 90, 90]
    assert first[str(Path(images) / "0.png")][0].tolist() == [0, 0, 40, 60]


@pytest.mark.usefixtures("ray_cluster")
def test_an_image_that_kills_its_worker_is_an_error_after_three_tries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for width in range(DEADLY_WIDTH - 3, DEADLY_WIDTH + 3):
        Image.fromarray(np.zeros((60, width, 3), np.uint8)).save(tmp_path / f"{width}.jpg")
    monkeypatch.setattr(cache, "propose_batch", propose_batch_or_die)
    boxes, errors = compute_proposals(
        storage.list_objects(str(tmp_path)), GRID, str(tmp_path / "cache")
    )
    assert errors == {
        str(tmp_path / "47.jpg"): "failed: its process died each of 3 times at stage 'read'"
    }
    assert {uri: rows[0].tolist() for uri, rows in boxes.items()} == {
        str(tmp_path / f"{width}.jpg"): [0, 0, width, 60] for width in (44, 45, 46, 48, 49)
    }
