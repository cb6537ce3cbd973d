"""Labels that can be read, but are probably mistakes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.annotations import LabelledImages, read_labelled_images
from pipeline.annotations.doubts import find_doubts
from tests.pipeline.annotations.corpus import IMAGE, XML, Case, write


@pytest.fixture
def dogs(tmp_path: Path) -> LabelledImages:
    """Ten images with a box each."""
    files = {f"Annotations/{n}.xml": XML for n in range(10)}
    files |= {f"JPEGImages/{n}.png": IMAGE for n in range(10)}
    write(Case(name="dogs", files=dict(files)), tmp_path)
    return read_labelled_images(str(tmp_path), "train")


def test_boxes_in_the_first_100_pixels_of_large_images_may_be_percentages(
    dogs: LabelledImages,
) -> None:
    large = [replace(image, size=(600, 800)) for image in dogs.images]
    (doubt,) = find_doubts(large, dogs.classes)
    assert "no box of these 10 images reaches beyond 100 px" in doubt
    assert find_doubts(large[:9], dogs.classes) == [], "too few boxes to tell"
    assert find_doubts(dogs.images, dogs.classes) == [], "the images are small"
    far = replace(large[0], gt_boxes=np.array([[0, 0, 101, 9]], np.float32))
    assert find_doubts([far, *large[1:]], dogs.classes) == []
