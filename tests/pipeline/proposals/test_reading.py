"""Reading images by plain calls: every image gets a row, with its size in pixels or a status."""

from __future__ import annotations

import importlib
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fastrcnn.config import ProposalConfig
from fastrcnn.proposals import propose
from pipeline.images import decoding
from pipeline.images.jpeg import Jpeg
from pipeline.proposals import reading
from pipeline.proposals.candidate import ReadSettings, decode_candidates
from pipeline.proposals.reading import read_chunks, read_images
from pipeline.runtime.attempts import AttemptLog
from pipeline.runtime.guard import node_name
from pipeline.schema import CANDIDATE, IMAGE, PLAN, PROPOSALS
from tests.pipeline.hostile_bytes import encode, exif, photo
from tests.pipeline.record_cases import planned_rows

SETTINGS = ReadSettings(proposals=ProposalConfig(name="grid", max_boxes=12))


def write_image(path: Path, size: tuple[int, int] = (40, 30)) -> None:
    Image.new("RGB", size, (90, 20, 10)).save(path)


def planned(folder: Path) -> pa.Table:
    return planned_rows(str(folder))


def test_a_good_image_carries_its_bytes_and_proposals(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    table = read_images(planned(tmp_path), SETTINGS)
    assert table.schema == CANDIDATE
    (row,) = table.to_pylist()
    assert (row["status"], row["error"], row["width"], row["height"]) == ("ok", None, 40, 30)
    assert row["image"] == (tmp_path / "a.png").read_bytes()
    boxes = np.frombuffer(row["proposals"], np.float32).reshape(-1, 4)
    pixels = np.asarray(Image.open(tmp_path / "a.png"))
    np.testing.assert_array_equal(boxes, propose(pixels, SETTINGS.proposals))


def test_a_jpeg_without_its_end_is_a_row_with_a_warning_or_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(encode(photo())[:-2])
    (row,) = read_images(planned(tmp_path), SETTINGS).to_pylist()
    warning = "the file lacks its end: all of its rows are there"
    assert (row["status"], row["error"]) == ("ok", warning)
    refusing = replace(SETTINGS, truncated="refuse")
    (row,) = read_images(planned(tmp_path), refusing).to_pylist()
    assert (row["status"], row["error"]) == ("undecodable", f"{warning} (--truncated refuse)")


def test_without_decoding_an_image_carries_the_size_of_its_header(tmp_path: Path) -> None:
    """The stage that decodes it corrects the size, and finds what the header does not show."""
    turned = encode(photo(20, 50), exif=exif(6))
    contents = {
        "a.jpg": turned,
        "b.jpg": encode(photo())[:-2],
        "c.png": encode(photo(), "PNG")[:-60],
        "d.jpg": b"no image",
        "e.png": encode(photo(600, 400), "PNG"),
        "f.tif": encode(photo(20, 50), "TIFF", exif=exif(6)),
    }
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    settings = replace(SETTINGS, decode=False, max_pixels=100_000)
    candidates = read_images(planned(tmp_path), settings)
    read = candidates.to_pylist()
    assert [row["status"] for row in read] == ["ok", "ok", "ok", "undecodable", "too_large", "ok"]
    assert (read[0]["width"], read[0]["height"]) == (20, 50)
    assert all(row["proposals"] is None for row in read)
    for threads in (1, 3):
        rows, pixels = decode_candidates(candidates, max_pixels=100_000, threads=threads)
        assert [row["status"] for row in rows] == [
            *("ok", "ok", "undecodable", "undecodable", "too_large", "ok")
        ]
        assert [image.shape[:2] for image in pixels] == [(50, 20), (48, 64), (50, 20)]
        assert rows[1]["error"] == "the file lacks its end: all of its rows are there"
        assert (rows[2]["width"], rows[5]["width"], rows[5]["height"]) == (None, 20, 50)
    rows, _ = decode_candidates(candidates, max_pixels=100_000, truncated="refuse")
    assert rows[1]["status"] == "undecodable"


@pytest.mark.parametrize("decoded", [True, False])
def test_an_image_whose_size_is_not_listed_gets_the_size_that_was_read(
    tmp_path: Path, decoded: bool
) -> None:
    write_image(tmp_path / "a.png")
    rows = planned(tmp_path)
    place = rows.schema.get_field_index("size_bytes")
    unknown = rows.set_column(place, rows.schema.field(place), pa.array([None], pa.int64()))
    (row,) = read_images(unknown, replace(SETTINGS, decode=decoded)).to_pylist()
    assert (row["status"], row["size_bytes"]) == ("ok", (tmp_path / "a.png").stat().st_size)


def test_every_bad_image_is_a_row_in_its_place(tmp_path: Path) -> None:
    good = io.BytesIO()
    Image.new("RGB", (40, 30)).save(good, "JPEG")
    contents = {
        "0.jpg": good.getvalue(),
        "1.jpg": b"",
        "2.jpg": good.getvalue()[:200],
        "3.jpg": b"<html>not an image</html>",
        "4.jpg": good.getvalue() + bytes(5000),
        "5.jpg": good.getvalue(),
        "6.jpg": good.getvalue(),
        "7.jpg": good.getvalue(),
    }
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    write_image(tmp_path / "8.png", (400, 300))
    rows = planned(tmp_path)
    (tmp_path / "5.jpg").unlink()
    (tmp_path / "6.jpg").write_bytes(good.getvalue() + b"more")
    settings = ReadSettings(proposals=SETTINGS.proposals, max_bytes=3000, max_pixels=10_000)
    results = read_images(rows, settings).to_pylist()
    assert [Path(row["image_uri"]).name for row in results] == [*contents, "8.png"]
    assert [row["status"] for row in results] == [
        *("ok", "undecodable", "undecodable", "undecodable", "too_large"),
        *("missing", "changed", "ok", "too_large"),
    ]
    for row in results:
        assert (row["image"] is None) == (row["proposals"] is None) == (row["status"] != "ok")
        assert (row["error"] is None) == (row["status"] == "ok")


def test_only_good_images_are_decoded_again_and_a_new_failure_gets_a_status(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", (60, 50))
    (tmp_path / "b.png").write_bytes(b"no image")
    write_image(tmp_path / "c.png")
    candidates = read_images(planned(tmp_path), SETTINGS)
    rows, pixels = decode_candidates(candidates, max_pixels=50 * 60 - 1)
    assert [row["status"] for row in rows] == ["too_large", "undecodable", "ok"]
    assert rows[1:] == candidates.to_pylist()[1:]
    assert "60" in rows[0]["error"]
    assert rows[0]["width"] is rows[0]["height"] is None
    assert [image.shape for image in pixels] == [(30, 40, 3)]


def test_an_image_that_did_not_exist_when_planned_is_missing_or_changed(tmp_path: Path) -> None:
    write_image(tmp_path / "late.png")
    uris = [str(tmp_path / "gone.png"), str(tmp_path / "late.png")]
    rows = pa.Table.from_pylist([{"image_uri": uri, "shard": 0} for uri in uris], schema=PLAN)
    results = read_images(rows, SETTINGS).to_pylist()
    assert [row["status"] for row in results] == ["missing", "changed"]
    assert "run the command again" in results[1]["error"]


def test_no_rows_give_no_rows(tmp_path: Path) -> None:
    table = read_images(PLAN.empty_table(), SETTINGS)
    assert (table.num_rows, table.schema) == (0, CANDIDATE)


@pytest.mark.parametrize("relative", [False, True])
def test_a_table_gives_the_proposals_and_a_missing_row_is_a_failure(
    tmp_path: Path, relative: bool
) -> None:
    folder = tmp_path / "images"
    (folder / "deep").mkdir(parents=True)
    names = ["deep/a.png", "b.png", "c.png", "d.png"]
    for name in names:
        write_image(folder / name)
    root = "" if relative else f"{folder}/"
    boxes = {"deep/a.png": [[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0]]}
    boxes |= {"b.png": [], "d.png": [[5.0, 0.0, 4.0, 1.0]]}
    listed = [{"image_uri": root + name, "boxes": rows} for name, rows in boxes.items()]
    pq.write_table(pa.Table.from_pylist(listed, schema=PROPOSALS), tmp_path / "table.parquet")
    settings = ReadSettings(
        proposals=ProposalConfig(name="table"),
        table=str(tmp_path / "table.parquet"),
        table_root=str(folder),
    )
    results = {
        row["image_uri"].removeprefix(f"{folder}/"): row
        for row in read_images(planned(folder), settings).to_pylist()
    }
    assert {name: row["status"] for name, row in results.items()} == {
        "deep/a.png": "ok", "b.png": "ok", "c.png": "failed", "d.png": "failed",
    }  # fmt: skip
    assert np.frombuffer(results["deep/a.png"]["proposals"], np.float32).tolist() == list(range(8))
    assert results["b.png"]["proposals"] == b""
    assert "no row" in results["c.png"]["error"]
    assert "x1 <= x2" in results["d.png"]["error"]


def test_a_lot_is_limited_in_bytes() -> None:
    sizes = [60 * 2**20, 60 * 2**20, 60 * 2**20, None, 300 * 2**20, 1, 1]
    rows = {"image_uri": list("abcdefg"), "etag": ["e"] * 7, "size_bytes": sizes, "shard": [0] * 7}
    chunks = reading._chunks(pa.table(rows, schema=IMAGE), 3)
    assert [chunk["image_uri"].to_pylist() for chunk in chunks] == [
        ["a", "b"],
        ["c", "d"],
        ["e"],
        ["f", "g"],
    ]


def test_chunks_come_in_order_and_hold_every_image_once(tmp_path: Path) -> None:
    for n in range(7):
        write_image(tmp_path / f"{n}.png", (40 + n, 30))
    chunks = list(read_chunks(planned(tmp_path), SETTINGS, max_images=3))
    assert [chunk["width"].to_pylist() for chunk in chunks] == [[40, 41, 42], [43, 44, 45], [46]]


class Died(BaseException):
    """Stands for the death of the process: nothing after it runs."""


@pytest.mark.parametrize(("fence_is_enough", "outcome"), [(True, "ok"), (False, "failed")])
def test_an_image_that_kills_a_process_is_good_behind_the_fence_only_if_that_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fence_is_enough: bool, outcome: str
) -> None:
    plain = decoding._decode_plain

    def deadly(data: bytes, jpeg: Jpeg) -> npt.NDArray[np.uint8] | None:
        if jpeg.width == 47:
            raise Died
        return plain(data, jpeg)

    monkeypatch.setattr(decoding, "_decode_plain", deadly)
    for n in (45, 47, 49):
        write_image(tmp_path / f"{n}.jpg", (n, 30))
    settings = ReadSettings(proposals=SETTINGS.proposals, fence_is_enough=fence_is_enough)
    log, deaths, rows = AttemptLog(), 0, planned(tmp_path)
    while True:  # Ray Data also gives the same batch again after each death
        try:
            results = read_images(rows, settings, log)
            break
        except Died:
            deaths += 1
    assert results["status"].to_pylist() == ["ok", outcome, "ok"]
    assert deaths == (1 if fence_is_enough else 3)


BUGS = {
    "read": ("pipeline.storage.read_bytes", lambda uri, **_: uri.endswith("47.jpg")),
    "decode": ("pipeline.images.decode", lambda data, **_: width_of(data) == 47),
    "propose": (
        "pipeline.proposals.candidate.propose_on_tiles",
        lambda pixels, *_: pixels.shape[1] == 47,
    ),
}
"""Stages, each with the function that raises and whether it does for its arguments."""


def width_of(data: bytes) -> int:
    return Image.open(io.BytesIO(data)).width


@pytest.mark.parametrize("stage", BUGS)
@pytest.mark.parametrize("error", [KeyError("LastModified"), MemoryError(), OverflowError("big")])
@pytest.mark.parametrize("read_ahead", [False, True])
def test_a_bug_that_one_image_meets_is_its_row_alone(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    error: Exception,
    read_ahead: bool,
) -> None:
    place, hits = BUGS[stage]
    module, _, name = place.rpartition(".")
    real = getattr(importlib.import_module(module), name)

    def broken(*args: Any, **kwargs: Any) -> Any:
        if hits(*args, **kwargs):
            raise error
        return real(*args, **kwargs)

    monkeypatch.setattr(place, broken)
    for n in (45, 47, 49):
        write_image(tmp_path / f"{n}.jpg", (n, 30))
    rows = planned(tmp_path)
    tables = (
        read_chunks(rows, SETTINGS, max_images=2) if read_ahead else [read_images(rows, SETTINGS)]
    )
    results = pa.concat_tables(tables).to_pylist()
    assert [row["status"] for row in results] == ["ok", "failed", "ok"]
    assert results[1]["error"].startswith(type(error).__name__)
    assert "in broken" in results[1]["traceback"]
    assert results[0]["node"] == results[1]["node"] == node_name()
