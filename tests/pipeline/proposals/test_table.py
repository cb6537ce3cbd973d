"""Proposals tables: boxes to Arrow and back, names of images, limits, and refused tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import UserError
from pipeline.proposals.table import (
    BOXES,
    ProposalsError,
    ProposalsTable,
    boxes_array,
    boxes_of,
    find_table,
)


def ragged() -> list[np.ndarray | None]:
    rng = np.random.default_rng(0)
    return [rng.random((n, 4), np.float32) if n is not None else None for n in (3, 0, None, 5, 1)]


@pytest.mark.parametrize(("start", "length"), [(0, 5), (1, 3), (3, 2), (2, 1), (5, 0)])
def test_boxes_of_different_counts_survive_arrow_and_slicing(start: int, length: int) -> None:
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


def write_table(path: Path, boxes: dict[str, list[list[float]]]) -> str:
    arrays = [np.array(rows, np.float32).reshape(-1, 4) for rows in boxes.values()]
    table = pa.table({"image_uri": list(boxes), "boxes": boxes_array(arrays)})
    pq.write_table(table, path)
    return str(path)


def test_a_table_is_a_file_or_a_folder_with_full_or_relative_names(tmp_path: Path) -> None:
    rows = [[0.0, 0.0, 9.0, 9.0], [1.0, 2.0, 3.0, 4.0]]
    write_table(tmp_path / "t.parquet", {"deep/a.png": rows, "s3://b/c.png": []})
    for uri in (str(tmp_path / "t.parquet"), str(tmp_path)):
        assert find_table(uri) == uri
        table = ProposalsTable.read(uri, root="s3://bucket/images")
        assert table.of("s3://bucket/images/deep/a.png", 10).tolist() == rows
        assert table.of("s3://bucket/images/deep/a.png", 1).tolist() == rows[:1]
        assert table.of("s3://b/c.png", 10).shape == (0, 4)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("none.png", "has no row"), ("nan.png", "not finite"), ("turned.png", "x1 <= x2")],
)
def test_the_error_on_an_image_without_valid_boxes_names_it(
    tmp_path: Path, name: str, reason: str
) -> None:
    uri = write_table(
        tmp_path / "t.parquet",
        {"nan.png": [[0.0, 0.0, float("nan"), 1.0]], "turned.png": [[5.0, 0.0, 4.0, 1.0]]},
    )
    with pytest.raises(ProposalsError, match=reason) as raised:
        ProposalsTable.read(uri, root="").of(name, 10)
    assert name in str(raised.value)


def test_a_table_without_boxes_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image_uri": ["a"]}), tmp_path / "t.parquet")
    for read in (find_table, lambda uri: ProposalsTable.read(uri, root="")):
        with pytest.raises(UserError, match=r"has the columns image_uri"):
            read(str(tmp_path))


def test_a_proposer_is_not_a_table_and_a_misspelt_proposer_is_refused() -> None:
    assert find_table("grid") is None
    with pytest.raises(UserError, match="neither a proposer"):
        find_table("grit")
