"""Candidates become decoded batches; nothing is lost or changed on the way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from fastrcnn.config import ProposalConfig
from fastrcnn.upload import Uploads
from pipeline.detector.batches import decoded_batches
from pipeline.detector.network import Network
from pipeline.scoring.candidates import ReadSettings, read_images
from pipeline.scoring.detector import DetectorActor
from tests.fastrcnn.test_halving import OUT_OF_MEMORY
from tests.pipeline.record_cases import planned_rows

MAX_PIXELS = 10_000


@pytest.fixture
def candidates(tmp_path: Path) -> pa.Table:
    """Five images, the second of them broken."""
    rng = np.random.default_rng(0)
    for index in range(5):
        pixels = rng.integers(0, 255, (20 + index, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    (tmp_path / "1.png").write_bytes(b"no image")
    settings = ReadSettings(proposals=ProposalConfig(name="grid", max_boxes=6))
    return read_images(planned_rows(str(tmp_path), [0] * 5), settings)


@pytest.mark.parametrize(("size", "expected"), [(None, [5]), (2, [2, 2, 1]), (5, [5]), (9, [5])])
def test_every_candidate_is_in_one_batch_with_its_pixels_and_proposals(
    candidates: pa.Table, size: int | None, expected: list[int]
) -> None:
    uploads = Uploads(torch.device("cpu"))
    made = list(decoded_batches(candidates, uploads, images_per_pass=size, max_pixels=MAX_PIXELS))
    assert [len(batch.rows) for batch in made] == expected
    rows = [row for batch in made for row in batch.rows]
    assert [row["image_uri"] for row in rows] == candidates["image_uri"].to_pylist()
    ok = [row for row in rows if row["status"] == "ok"]
    pixels = [image for batch in made for image in batch.images.wait()]
    proposals = [boxes for batch in made for boxes in batch.proposals or []]
    assert len(ok) == len(pixels) == len(proposals) == 4
    for row, image, boxes in zip(ok, pixels, proposals, strict=True):
        assert image.numpy().tolist() == np.asarray(Image.open(row["image_uri"])).tolist()
        assert boxes.tobytes() == row["proposals"]


def test_a_batch_holds_images_of_one_canvas_and_every_candidate_once(candidates: pa.Table) -> None:
    """The rows are 20, none, 22, 23 and 24 pixels high."""
    uploads = Uploads(torch.device("cpu"))
    made = list(
        decoded_batches(
            candidates,
            uploads,
            images_per_pass=2,
            canvas=lambda size: (size[0] % 2, size[1]),
            max_pixels=MAX_PIXELS,
        )
    )
    assert [batch.indices for batch in made] == [[0, 2], [1], [3], [4]]
    uris = candidates["image_uri"].to_pylist()
    assert [[row["image_uri"] for row in batch.rows] for batch in made] == [
        [uris[index] for index in batch.indices] for batch in made
    ]
    heights = [[len(image) for image in batch.images.wait()] for batch in made]
    assert heights == [[20, 22], [], [23], [24]]


def test_rows_come_back_in_order_however_canvases_mix_them(
    candidates: pa.Table, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = ["scored_at", "detect_s"]
    plain = DetectorActor(tiny_checkpoint)(candidates).drop_columns(timed)
    monkeypatch.setattr(Network, "canvases", lambda self, size: (size[0] % 2,))
    mixed = DetectorActor(tiny_checkpoint, images_per_pass=2)(candidates).drop_columns(timed)
    assert mixed.equals(plain)


def test_no_candidates_make_no_batch(candidates: pa.Table) -> None:
    uploads = Uploads(torch.device("cpu"))
    none = candidates.slice(0, 0)
    assert list(decoded_batches(none, uploads, images_per_pass=2, max_pixels=MAX_PIXELS)) == []


def test_the_rows_do_not_depend_on_the_batch_size(
    candidates: pa.Table, tiny_checkpoint: Path
) -> None:
    whole, parts = (
        DetectorActor(tiny_checkpoint, images_per_pass=size)(candidates) for size in (None, 2)
    )
    timed = ["scored_at", "detect_s"]
    assert parts.drop_columns(timed).equals(whole.drop_columns(timed))
    assert whole["status"].to_pylist() == ["ok", "undecodable", "ok", "ok", "ok"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_pixels_arrive_whole_while_it_computes() -> None:
    device = torch.device("cuda")
    uploads = Uploads(device)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        images = [
            torch.randint(0, 256, (480, 640, 3), dtype=torch.uint8, generator=generator)
            for _ in range(8)
        ]
        busy = torch.rand(2048, 2048, device=device)
        started = uploads.start(images)
        busy = busy @ busy
        for image, copied in zip(images, started.wait(), strict=True):
            assert copied.device.type == "cuda"
            assert torch.equal(copied.cpu(), image)


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=str)
def test_images_for_which_an_upload_has_no_memory_stay_on_the_host_and_are_scored(
    candidates: pa.Table,
    tiny_checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: RuntimeError,
) -> None:
    timed = ["scored_at", "detect_s"]
    expected = DetectorActor(tiny_checkpoint)(candidates).drop_columns(timed)

    def start(*_: object) -> None:
        raise error

    monkeypatch.setattr(Uploads, "start", start)
    found = DetectorActor(tiny_checkpoint, images_per_pass=2)(candidates).drop_columns(timed)
    assert found.equals(expected)
