"""One data set trains alike, whichever layout its labels are in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.draw_scenes import draw_split
from tests.pipeline.training.layouts import IN_PIXELS, WRITERS, read_set
from tests.pipeline.training_runs import config, steps_without_ray

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine drawn scenes in VOC's layout."""
    folder = tmp_path_factory.mktemp("scenes")
    draw_split(folder, "train", range(9), seed=0, size=(180, 220))
    return folder


@pytest.fixture(scope="module")
def original(scenes: Path) -> list[dict[str, Any]]:
    """The steps of a training on the scenes as they were drawn."""
    return steps_without_ray(config(str(scenes), "unused"))[0]


@pytest.mark.parametrize("layout", WRITERS)
def test_losses_equal_those_of_the_original_layout(
    layout: str, scenes: Path, original: list[dict[str, Any]], tmp_path: Path
) -> None:
    images, classes = read_set(str(scenes), "train")
    WRITERS[layout](images, classes, tmp_path)
    steps = steps_without_ray(config(str(tmp_path), "unused"))[0]
    losses, expected = ([step["loss"] for step in rows] for rows in (steps, original))
    assert len(losses) == len(expected) == 12
    assert expected[0] != expected[-1]
    if layout in IN_PIXELS:
        assert losses == expected
    else:
        assert losses == pytest.approx(expected, rel=1e-4)
