"""Images and labels that other tools' libraries have packed are read as they were written."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import storage
from pipeline.annotations import read_labelled_images
from pipeline.images import decode
from tests.peers.environment import PROGRAMS, require_peers, run
from tests.peers.writers import NAMES, OBJECTS, WRITERS

pytestmark = pytest.mark.peers

LAYOUTS = {"webdataset": "webdataset", "datasets": "hugging-face"}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_packed_data_set_is_read_as_it_was_written(writer: str, tmp_path: Path) -> None:
    require_peers()
    data = tmp_path / "in"
    (data / "data").mkdir(parents=True)
    program = [str(PROGRAMS / "python"), str(Path(__file__).with_name("writers.py"))]
    run([*program, writer, str(data)], tmp_path)
    labelled = read_labelled_images(str(data), "train")
    assert labelled.layout == LAYOUTS[writer.partition("_")[0]]
    assert labelled.classes == tuple(NAMES)
    assert not labelled.problems
    images = sorted(labelled.images, key=lambda image: image.image_uri.split("::")[::-1])
    found = [
        [
            ([x1, y1, x2 - x1, y2 - y1], label - 1)
            for (x1, y1, x2, y2), label in zip(
                image.gt_boxes.tolist(), image.gt_labels.tolist(), strict=True
            )
        ]
        for image in images
    ]
    assert found == OBJECTS
    for number, image in enumerate(images):
        pixels = decode(storage.read_bytes(image.image_uri)).pixels
        assert pixels.shape == (30, 40, 3)
        assert abs(int(pixels[0, 0, 0]) - number * 50) <= 2
