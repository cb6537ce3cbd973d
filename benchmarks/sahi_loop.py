"""python -m benchmarks.sahi_loop CHECKPOINT TILE OVERLAP MIN_SCORE ROUNDS IMAGE...

Detects in tiles with this project and with SAHI, with the same detector, tiles and thresholds, in turns in
one process. It runs in `.venv-peers`, which has SAHI, and borrows torch and the other packages of `.venv`,
whose folder is in LENT_PACKAGES. The last line of the output has the seconds and the boxes of each image, as
JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

Boxes = list[list[float]]
"""Each x1, y1, x2, y2, label id, score."""


def measure(
    checkpoint: str,
    tile: int,
    overlap: float,
    min_score: float,
    rounds: int,
    images: list[str],
) -> list[dict[str, Any]]:
    """Detect in each image in both ways, `rounds` times.

    Returns:
        For each image its size and number of tiles; and for each way the fastest of its times and its boxes.
    """
    import numpy as np
    from PIL import Image

    from fastrcnn.tiles import Tiling

    ways = {"ours": ours(checkpoint, tile, overlap, min_score)}
    ways["sahi"] = theirs(checkpoint, tile, overlap, min_score)
    results = []
    for number, path in enumerate(images):
        pixels = np.array(Image.open(path).convert("RGB"))
        tiles = Tiling(side=tile, overlap=overlap).grid(pixels.shape[:2])
        result: dict[str, Any] = {"image": path, "tiles": len(tiles), "ours": {}, "sahi": {}}
        if number == 0:  # the first call of each is slower
            for detect in ways.values():
                detect(pixels)
        for turn in range(rounds):
            for way in sorted(ways, reverse=turn % 2 == 1):
                began = time.perf_counter()
                boxes = ways[way](pixels)
                seconds = time.perf_counter() - began
                result[way]["seconds"] = min(seconds, result[way].get("seconds", seconds))
                result[way]["boxes"] = boxes
        results.append(result)
    return results


def ours(checkpoint: str, tile: int, overlap: float, min_score: float) -> Callable[[Any], Boxes]:
    """Give the detection in tiles of this project."""
    from pipeline import Detector

    detector = Detector(
        checkpoint, tile=tile, tile_overlap=overlap, min_score=min_score, max_pixels=2**31
    )

    def detect(pixels: Any) -> Boxes:
        found = detector(pixels)
        return [
            [*map(float, box), float(label), float(score)]
            for box, label, score in zip(found.boxes, found.label_ids, found.scores, strict=True)
        ]

    return detect


def theirs(checkpoint: str, tile: int, overlap: float, min_score: float) -> Callable[[Any], Boxes]:
    """Give SAHI's sliced prediction, with the detector of this project on each slice and the whole image.

    Boxes are suppressed by IoU within each class, as here (SAHI's own default merges them).
    """
    from sahi.models.base import DetectionModel  # type: ignore[import-not-found]
    from sahi.predict import get_sliced_prediction  # type: ignore[import-not-found]
    from sahi.prediction import ObjectPrediction  # type: ignore[import-not-found]
    from sahi.utils.compatibility import (  # type: ignore[import-not-found]
        fix_full_shape_list,
        fix_shift_amount_list,
    )

    from pipeline import Detector

    detector = Detector(checkpoint, tile=0, min_score=min_score, max_pixels=2**31)

    class Slices(DetectionModel):  # type: ignore[misc]
        """Calls the detector."""

        def set_model(self, model: Any, **_: Any) -> None:
            self.model = model

        def perform_inference(self, image: Any) -> None:
            self._original_predictions = self.model(image)

        def _create_object_prediction_list_from_original_predictions(
            self, shift_amount_list: Any = None, full_shape_list: Any = None
        ) -> None:
            found = self._original_predictions
            (shift,) = fix_shift_amount_list(shift_amount_list)
            shapes = fix_full_shape_list(full_shape_list)
            self._object_prediction_list_per_image = [
                [
                    ObjectPrediction(
                        bbox=box.tolist(),
                        category_id=int(label),
                        category_name=str(label),
                        score=float(score),
                        shift_amount=shift,
                        full_shape=None if shapes is None else shapes[0],
                    )
                    for box, label, score in zip(
                        found.boxes, found.label_ids, found.scores, strict=True
                    )
                ]
            ]

    model = Slices(model=detector, device=str(detector.network.device), confidence_threshold=0)

    def detect(pixels: Any) -> Boxes:
        found = get_sliced_prediction(
            pixels,
            model,
            slice_height=tile,
            slice_width=tile,
            overlap_height_ratio=overlap,
            overlap_width_ratio=overlap,
            postprocess_type="NMS",
            postprocess_match_metric="IOU",
            postprocess_match_threshold=detector.network.model.config.nms_threshold,
            verbose=0,
        )
        return [
            [*map(float, p.bbox.to_xyxy()), float(p.category.id), float(p.score.value)]
            for p in found.object_prediction_list
        ]

    return detect


if __name__ == "__main__":
    sys.path.append(os.environ["LENT_PACKAGES"])
    _checkpoint, _tile, _overlap, _min_score, _rounds, *_images = sys.argv[1:]
    _results = measure(
        _checkpoint, int(_tile), float(_overlap), float(_min_score), int(_rounds), _images
    )
    print(json.dumps(_results))
