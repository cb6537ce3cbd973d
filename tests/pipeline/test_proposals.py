"""Proposals tables: ragged arrays there and back, the cache, given tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fastrcnn.config import ProposalConfig
from pipeline import storage
from pipeline.errors import UserError
from pipeline.proposals import (
    BOXES,
    boxes_array,
    boxes_of,
    compute_proposals,
    propose_batch,
    read_table,
    settings_name,
)

GRID = ProposalConfig(name="grid", max_boxes=30)


def ragged() -> list[np.ndarray | None]:
    rng = np.random.default_rng(0)
    return [rng.random((n, 4), np.float32) if n is not None else None for n in (3, 0, None, 5, 1)]


@pytest.mark.parametrize(("start", "length"), [(0, 5), (1, 3), (3, 2), (2, 1), (5, 0)])
def test_ragged_boxes_come_back_whole_even_from_a_slice(start: int, length: int) -> None:
    boxes = ragged()
    array = boxes_array(boxes)
    assert array.type == BOXES
    back = boxes_of(array.slice(start, length))
    assert len(back) == length
    for got, expected in zip(back, boxes[start : start + length], strict=True):
        assert (got is None) == (expected is None)
        if got is not None:
            np.testing.assert_array_equal(got, expected)


def test_boxes_survive_parquet_and_several_chunks(tmp_path: Path) -> None:
    table = pa.table({"boxes": boxes_array(ragged())})
    pq.write_table(pa.concat_tables([table, table]), tmp_path / "t.parquet")
    back = boxes_of(pq.read_table(tmp_path / "t.parquet")["boxes"].cast(BOXES))
    assert [None if b is None else len(b) for b in back] == [3, 0, None, 5, 1] * 2


@pytest.fixture
def images(tmp_path: Path) -> str:
    for index in range(4):
        Image.fromarray(np.zeros((60, 40 + index, 3), np.uint8)).save(tmp_path / f"{index}.png")
    (tmp_path / "broken.png").write_bytes(b"not an image")
    return str(tmp_path)


def test_a_bad_image_is_a_row_with_its_error(images: str) -> None:
    infos = [*storage.list_objects(images)]
    rows = pa.table({"image_uri": [i.uri for i in infos], "etag": [i.etag for i in infos]})
    table = propose_batch(rows, GRID)
    errors = dict(zip(table["image_uri"].to_pylist(), table["error"].to_pylist(), strict=True))
    bad = [uri for uri, error in errors.items() if error]
    assert [storage.basename(uri) for uri in bad] == ["broken.png"]
    assert errors[bad[0]].startswith("undecodable: ")
    assert [len(b) if b is not None else None for b in boxes_of(table["boxes"])].count(None) == 1
    assert table["width"].to_pylist()[:4] == [40, 41, 42, 43]


def test_settings_have_folders_of_their_own() -> None:
    names = {settings_name(c) for c in (GRID, ProposalConfig(name="grid"), ProposalConfig())}
    assert len(names) == 3


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
    assert sorted(len(r) for r in rows) == [
        1,
        5,
    ]  # the second run tried the broken one again, alone
    Image.fromarray(np.zeros((90, 90, 3), np.uint8)).save(Path(images) / "0.png")
    changed, _ = compute_proposals(storage.list_objects(images), GRID, cache)
    assert changed[str(Path(images) / "0.png")][0].tolist() == [0, 0, 90, 90]
    assert first[str(Path(images) / "0.png")][0].tolist() == [0, 0, 40, 60]


def test_a_given_table_is_read_from_a_file_or_a_folder(tmp_path: Path) -> None:
    table = pa.table({"image_uri": ["a", "b"], "boxes": boxes_array(ragged()[:2])})
    pq.write_table(table, tmp_path / "t.parquet")
    for uri in (str(tmp_path / "t.parquet"), str(tmp_path)):
        assert {k: len(v) for k, v in read_table(uri).items()} == {"a": 3, "b": 0}


def test_a_table_without_boxes_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image_uri": ["a"]}), tmp_path / "t.parquet")
    with pytest.raises(UserError, match=r"has the columns image_uri"):
        read_table(str(tmp_path))
