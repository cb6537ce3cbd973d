"""Every bad and odd annotation: refused with file, place, value and advice, or handled and reported."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from PIL import Image

from pipeline.annotations import read_labelled_images
from pipeline.errors import UserError
from tests.pipeline.hostile_annotations import HostileAnnotation, corpus

CORPUS = corpus()
IMAGE = {
    "voc": "JPEGImages/a.jpg",
    "labelimg": "train/a.jpg",
    "coco": "train/a.jpg",
    "yolo": "images/train/a.jpg",
}


def write(case: HostileAnnotation, folder: Path) -> None:
    files = {folder / path: data for path, data in case.files.items()}
    image = folder / IMAGE[case.layout]
    for path in (*files, image):
        path.parent.mkdir(parents=True, exist_ok=True)
    for path, data in files.items():
        path.write_bytes(data)
    Image.new("RGB", (40, 30)).save(image)


def test_there_are_at_least_60() -> None:
    assert len(CORPUS) >= 60


@pytest.mark.parametrize("case", CORPUS, ids=lambda case: case.name)
def test_an_annotation_is_refused_or_handled_and_never_in_silence(
    case: HostileAnnotation, tmp_path: Path
) -> None:
    write(case, tmp_path)
    split = "all" if case.layout == "voc" else "train"
    started = time.monotonic()
    if case.boxes is None:
        with pytest.raises(UserError) as caught:
            read_labelled_images(str(tmp_path), split, classes=("dog",))
        message, mend = str(caught.value), caught.value.args[2]
        assert mend.strip()
        assert "\n" not in message
        assert len(message) < 1000
    else:
        labelled = read_labelled_images(str(tmp_path), split, classes=("dog",))
        (image,) = labelled.images
        assert image.gt_boxes.tolist() == [list(box) for box in case.boxes]
        message = " ".join(labelled.problems)
        if case.boxes and not case.says:
            assert labelled.problems == ()
    assert [part for part in case.says if part not in message] == [], message
    assert time.monotonic() - started < 5
