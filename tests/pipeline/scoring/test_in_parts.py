"""Very large TIFFs in a scoring job, without Ray: rows of images that are decoded part by part."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tifffile
from PIL import Image

from pipeline import Detector
from pipeline.config import ScoreConfig
from pipeline.images import ImageError
from pipeline.proposals.reading import read_images, unplanned
from pipeline.schema import PROPOSALS
from pipeline.scoring.detector import DetectorActor
from pipeline.scoring.preflight import detector_settings, prepare, read_settings
from tests.pipeline.images.test_regions import picture, write_900_megapixels

SIZE = (150, 230)
SMALL = 10_000
"""--max-pixels below the pixels of the large images."""


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Large TIFFs in tiles and in strips, turned, and two large images that must be decoded whole."""
    folder = tmp_path / "images"
    folder.mkdir()
    pixels = picture(*SIZE)
    how: dict[str, Any] = {"photometric": "rgb", "metadata": None}
    tifffile.imwrite(folder / "a.tif", pixels, tile=(48, 64), compression="jpeg", **how)
    turned = [(274, "H", 1, 6, True)]
    tifffile.imwrite(folder / "b.tif", pixels, rowsperstrip=16, extratags=turned, **how)
    tifffile.imwrite(folder / "c.tif", pixels.astype(np.uint16) * 256, tile=(48, 64), **how)
    Image.fromarray(pixels).save(folder / "d.png")
    Image.fromarray(pixels[:30, :30]).save(folder / "e.png")
    return folder


@pytest.fixture
def config(tmp_path: Path, images: Path, rpn_checkpoint: Path) -> ScoreConfig:
    return ScoreConfig(
        images=str(images),
        checkpoint=str(rpn_checkpoint),
        output=str(tmp_path / "out"),
        tile=64,
        precision="float32",
    )


def candidates_of(config: ScoreConfig) -> pa.Table:
    job = prepare(config)
    return read_images(unplanned(job.selection.listed.first(10)), read_settings(job))


def rows_of(config: ScoreConfig, candidates: pa.Table | None = None) -> list[dict[str, Any]]:
    """Read and score the images in this process, as a job does."""
    table = candidates_of(config) if candidates is None else candidates
    return list(actor_of(config)(table).to_pylist())


def actor_of(config: ScoreConfig) -> DetectorActor:
    return DetectorActor(**detector_settings(prepare(config)), gpu=False)


def check_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    names = ("status", "error", "width", "height", "num_tiles", "num_proposals", "num_detections")
    assert {n: one[n] for n in names} == {n: other[n] for n in names}
    boxes, others = ([list(d.values())[1:] for d in row["detections"]] for row in (one, other))
    np.testing.assert_allclose(boxes, others, atol=1e-2)


def test_boxes_of_parts_are_those_of_the_whole_image(config: ScoreConfig) -> None:
    whole, parts = rows_of(config), rows_of(replace(config, max_pixels=SMALL))
    assert [row["status"] for row in whole] == ["ok"] * 5
    assert [row["status"] for row in parts] == ["ok", "ok", "too_large", "too_large", "ok"]
    assert [(row["width"], row["height"]) for row in parts[:2]] == [(230, 150), (150, 230)]
    assert parts[0]["num_tiles"] == 15
    assert parts[0]["num_detections"] > 5
    for index in (0, 1, 4):
        check_same(parts[index], whole[index])


def test_large_files_are_read_in_ranges_to_the_same_rows(config: ScoreConfig) -> None:
    ranged = replace(config, max_bytes_whole=1000)
    candidates = candidates_of(ranged)
    unread = [not image.is_valid for image in candidates["image"]]
    assert unread == [
        True,
        True,
        False,
        False,
        False,
    ]  # 16 bits and PNGs are read and decoded whole
    for one, other in zip(rows_of(ranged, candidates), rows_of(config), strict=True):
        check_same(one, other)
    assert prepare(ranged).run_id == prepare(config).run_id


def test_an_object_of_a_bucket_is_read_in_ranges(
    config: ScoreConfig, images: Path, bucket: str, s3_client: Any
) -> None:
    name = bucket.removeprefix("s3://")
    s3_client.upload_file(str(images / "a.tif"), name, "x/a.tif")
    remote = replace(config, images=f"{bucket}/x", max_bytes_whole=1000, max_pixels=SMALL)
    candidates, actor = candidates_of(remote), actor_of(remote)
    (row,) = actor(candidates).to_pylist()
    check_same(row, rows_of(config)[0])
    s3_client.upload_file(str(images / "b.tif"), name, "x/a.tif")  # If-Match refuses the new object
    (row,) = actor(candidates).to_pylist()
    assert row["status"] == "changed"
    assert row["detections"] is None
    s3_client.delete_object(Bucket=name, Key="x/a.tif")
    assert actor(candidates)["status"].to_pylist() == ["missing"]


def test_without_tiles_and_with_a_proposer_that_needs_pixels_nothing_changes(
    config: ScoreConfig, tiny_checkpoint: Path
) -> None:
    for changes in ({"tile": 0}, {"checkpoint": str(tiny_checkpoint)}):
        rows = rows_of(replace(config, max_pixels=SMALL, max_bytes_whole=1000, **changes))
        assert [row["status"] for row in rows] == ["too_large"] * 4 + ["ok"]
        assert "230 x 150 is more than 10000 pixels" in rows[0]["error"]


def test_a_table_of_proposals_needs_no_pixels(
    config: ScoreConfig, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 100, (40, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(10, 50, (40, 2))], axis=1).tolist()
    names = [str(Path(config.images) / name) for name in ("a.tif", "e.png")]
    table = pa.Table.from_pylist(
        [{"image_uri": name, "boxes": boxes, "scores": None} for name in names], schema=PROPOSALS
    )
    pq.write_table(table, tmp_path / "table.parquet")
    given = replace(
        config, checkpoint=str(tiny_checkpoint), proposals=str(tmp_path / "table.parquet")
    )
    parts, whole = rows_of(replace(given, max_pixels=SMALL)), rows_of(given)
    check_same(parts[0], whole[0])
    assert parts[0]["num_proposals"] == 40
    assert parts[1]["status"] == "failed"  # it has no row in the table
    assert "proposals" in parts[1]["error"]


def test_a_tile_with_more_pixels_than_may_be_decoded_is_too_large(config: ScoreConfig) -> None:
    rows = rows_of(replace(config, tile=140, max_pixels=SMALL))
    assert rows[0]["status"] == "too_large"
    assert "and so is a tile of 140 x 140" in rows[0]["error"]


def test_a_damaged_tile_is_a_row_and_the_next_image_is_scored(
    config: ScoreConfig, images: Path
) -> None:
    data = bytearray((images / "a.tif").read_bytes())
    with tifffile.TiffFile(images / "a.tif") as file:
        page: Any = file.pages[0]
        offset, count = page.dataoffsets[7], page.databytecounts[7]
    data[offset : offset + count] = bytes(count)
    (images / "a.tif").write_bytes(data)
    rows = rows_of(replace(config, max_pixels=SMALL))
    assert [row["status"] for row in rows[:2]] == ["undecodable", "ok"]
    assert rows[0]["width"] is None


def test_the_library_decodes_parts_too(images: Path, rpn_checkpoint: Path, tmp_path: Path) -> None:
    whole = Detector(rpn_checkpoint, tile=64, precision="float32")
    parts = Detector(rpn_checkpoint, tile=64, precision="float32", max_pixels=SMALL)
    names = [str(images / name) for name in ("e.png", "a.tif", "b.tif", "e.png")]
    for one, other in zip(parts.detect(names), whole.detect(names), strict=True):
        assert [d["label"] for d in one] == [d["label"] for d in other]
        corners = [[[d["x_min"], d["y_max"], d["score"]] for d in boxes] for boxes in (one, other)]
        np.testing.assert_allclose(*corners, atol=1e-2)
    assert len(parts.detect([(images / "a.tif").read_bytes()])[0]) == len(
        whole.detect(names[1:2])[0]
    )
    with pytest.raises(ImageError, match=r"d.png: 230 x 150 is more than 10000 pixels"):
        parts(images / "d.png")
    shutil.copy(images / "c.tif", tmp_path / "c.tif")
    with pytest.raises(ImageError, match=r"image 1: .*c.tif: 230 x 150 is more than"):
        parts([names[0], tmp_path / "c.tif"])


SCORE = """
import sys
from pathlib import Path
from pipeline.config import ScoreConfig
from pipeline.images.fence import fence
from pipeline.proposals.reading import read_images, unplanned
from pipeline.scoring.detector import DetectorActor
from pipeline.scoring.preflight import detector_settings, prepare, read_settings

images, checkpoint, output = sys.argv[1:]
job = prepare(ScoreConfig(
    images=images, checkpoint=checkpoint, output=output, tile=2048, max_bytes=400_000_000
))
candidates = read_images(unplanned(job.selection.listed.first(1)), read_settings(job))
actor = DetectorActor(**detector_settings(job), gpu=False, num_threads=1)
(row,) = actor(candidates).to_pylist()
status = Path("/proc/self/status").read_text().split()
peak = int(status[status.index("VmHWM:") + 1]) * 1024 + fence().peak_bytes
print(row["status"], row["width"], row["height"], row["num_tiles"], row["num_detections"], peak)
"""


@pytest.mark.long
def test_an_image_of_900_megapixels_is_scored_in_3_gb(tmp_path: Path, rpn_checkpoint: Path) -> None:
    (tmp_path / "images").mkdir()
    write_900_megapixels(tmp_path / "images" / "a.tif")
    command = [sys.executable, "-c", SCORE, str(tmp_path / "images"), str(rpn_checkpoint)]
    done = subprocess.run(
        [*command, str(tmp_path / "out")], capture_output=True, text=True, timeout=1200, check=False
    )
    assert not done.returncode, done.stderr
    status, *numbers = done.stdout.split()
    width, height, num_tiles, num_detections, peak = map(int, numbers)
    assert (status, width, height, num_tiles) == ("ok", 30_000, 30_000, 361)
    assert num_detections > 0
    assert peak < 3e9, f"{peak / 1e9:.1f} GB"
