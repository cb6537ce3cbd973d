"""Detection in an image whose tiles are decoded one after the other: equal boxes, a few tiles at a time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fastrcnn.config import FastRCNNConfig, RPNConfig
from fastrcnn.detection import Detections, ScoredImage, detect_counting
from fastrcnn.model import FastRCNN
from fastrcnn.regions import detect_in_regions, detects_in_regions
from fastrcnn.tiled_detection import detect_tiled
from fastrcnn.tiles import Window

SIZE = (150, 230)
Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def config(**changes: Any) -> FastRCNNConfig:
    numbers: dict[str, Any] = {"fc_dim": 16, "scale": 64, "max_size": 90, "score_threshold": 0.0}
    numbers |= {"tile": 100, "rpn": RPNConfig(), "detections_per_image": 10}
    return FastRCNNConfig.modern(2, backbone="tiny", **numbers | changes)


def model(**changes: Any) -> FastRCNN:
    torch.manual_seed(0)
    return FastRCNN(config(**changes)).eval()


class Parts:
    """An image in memory, that counts the windows that are read."""

    def __init__(self, pixels: Pixels) -> None:
        self.pixels, self.windows = pixels, list[Window]()

    @property
    def size(self) -> tuple[int, int]:
        return self.pixels.shape[0], self.pixels.shape[1]

    def read(self, window: Window, /) -> Pixels:
        self.windows.append(window)
        x1, y1, x2, y2 = window
        return self.pixels[y1:y2, x1:x2]

    def resized(self, size: tuple[int, int], /) -> np.ndarray[Any, np.dtype[np.float32]]:
        whole = torch.from_numpy(self.pixels).permute(2, 0, 1)[None].float()
        resized = F.interpolate(whole, size=size, mode="bilinear", align_corners=False)
        return resized[0].permute(1, 2, 0).contiguous().numpy()


def image(height: int, width: int) -> Pixels:
    return np.random.default_rng(height).integers(0, 255, (height, width, 3), np.uint8)


def check_same(one: Detections, other: Detections) -> None:
    assert torch.equal(one.labels, other.labels)
    torch.testing.assert_close(one.scores, other.scores, atol=1e-5, rtol=0)
    torch.testing.assert_close(one.boxes, other.boxes, atol=1e-2, rtol=0)


@pytest.mark.parametrize("size", [SIZE, (300, 101), (20, 700), (100, 100), (60, 40)])
@pytest.mark.parametrize("resize", ["round", "floor"])
def test_the_boxes_are_those_of_the_whole_image(size: tuple[int, int], resize: str) -> None:
    network, parts = model(resize=resize), Parts(image(*size))
    (expected,) = detect_tiled(network, [parts.pixels])
    found = detect_in_regions(partial(detect_counting, network), parts, None, network.config)
    assert isinstance(found, ScoredImage)
    check_same(found.detections, expected.detections)
    assert found[1:] == expected[1:]
    assert found.detections.boxes[:, 2].max() <= size[1]


def test_given_proposals_are_shared_by_the_looks() -> None:
    network, parts = model(rpn=None), Parts(image(*SIZE))
    given = np.array([[0, 0, 230, 150], [90, 0, 110, 20], [10, 10, 50, 60]] * 3, np.float32)
    (expected,) = detect_tiled(network, [parts.pixels], [given], most_whole=4)
    run = partial(detect_counting, network)
    found = detect_in_regions(run, parts, given, network.config, most_whole=4)
    assert isinstance(found, ScoredImage)
    check_same(found.detections, expected.detections)
    assert (found.num_proposals, found.num_tiles) == (9, 6)


def test_a_few_tiles_are_read_at_a_time_and_progress_is_given() -> None:
    network, parts, passes, progress = model(), Parts(image(*SIZE)), list[int](), list[Any]()

    def run(pixels: Sequence[Any], proposals: Any) -> list[ScoredImage]:
        passes.append(len(pixels))
        assert len(parts.windows) == sum(passes) - 1  # the first pass is the whole image
        return detect_counting(network, pixels, proposals)

    seen = partial(lambda *numbers: progress.append(numbers))
    detect_in_regions(run, parts, None, network.config, looks_per_pass=4, seen=seen)
    assert passes == [1, 4, 2]
    assert progress == [(4, 6), (6, 6)]


def test_a_look_that_fails_ends_the_image() -> None:
    network, parts = model(), Parts(image(*SIZE))

    def run(pixels: Sequence[Any], proposals: Any) -> list[ScoredImage | str]:
        return ["no room" for _ in pixels] if parts.windows else [*detect_counting(network, pixels)]

    assert detect_in_regions(run, parts, None, network.config) == "no room"


def test_a_model_of_several_scales_or_without_tiles_needs_the_whole_image() -> None:
    assert detects_in_regions(config())
    assert not detects_in_regions(config(tile=None))
    assert not detects_in_regions(config(test_scales=(48,)))
