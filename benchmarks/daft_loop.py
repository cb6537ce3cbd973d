"""Images in Daft, for `jobs/benchmark.py feed` and `score`. It runs in `.venv-peers`, which has Daft.

    python -m benchmarks.daft_loop feed FOLDER BATCH_SIZE
    python -m benchmarks.daft_loop detect FOLDER BATCH_SIZE OUTPUT CHECKPOINT MAX_PROPOSALS SCORE_THRESHOLD

`feed` reads and decodes the images into an actor that does nothing with the pixels. The last line of the
output has the time of each image in microseconds, as JSON. `detect` has the detector of Ray's example
(`benchmarks.ray_example`) in the actor, and writes Parquet. It borrows torch and the other packages of
`.venv`, whose folder is in LENT_PACKAGES.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any


def feed(folder: str, batch_size: int) -> list[int]:
    """Give the times at which the actor had the pixels of each image, in microseconds."""
    import daft  # type: ignore[import-not-found]

    @daft.cls(max_concurrency=1)
    class PixelActor:
        """Takes the pixels of a batch, and drops them."""

        @daft.method.batch(return_dtype=daft.DataType.int64(), batch_size=batch_size)  # type: ignore[untyped-decorator]
        def take(self, images: Any) -> list[int]:
            arrays = images.to_pylist()
            for pixels in arrays:
                pixels[::64, ::64].sum()
            return [time.time_ns() // 1000] * len(arrays)

    paths, decoded = _images(folder)
    rows = paths.select(PixelActor().take(decoded).alias("taken_at"))
    return [row["taken_at"] for row in rows.iter_rows()]


def detect(
    folder: str,
    batch_size: int,
    output: str,
    checkpoint: str,
    max_proposals: int,
    score_threshold: float,
) -> None:
    """Detect in the images with torchvision's Faster R-CNN, in one actor, and write Parquet.

    Each row has the path, labels, scores, boxes, and the time in microseconds as `scored_at`.
    """
    import daft
    import torch
    from torchvision.transforms.functional import to_tensor

    from benchmarks.ray_example import faster_rcnn
    from pipeline.storage.checkpoints import load

    types = daft.DataType
    lists = {
        "labels": types.list(types.int64()),
        "scores": types.list(types.float32()),
        "boxes": types.list(types.list(types.float32())),
    }

    @daft.cls(max_concurrency=1)
    class ObjectDetector:
        """Holds the detector on the device."""

        def __init__(self) -> None:
            self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            self.model = faster_rcnn(load(checkpoint).model, max_proposals, score_threshold)
            self.model.to(self.device).eval()

        @daft.method.batch(  # type: ignore[untyped-decorator]
            return_dtype=types.struct(lists | {"scored_at": types.int64()}), batch_size=batch_size
        )
        @torch.inference_mode()
        def __call__(self, images: Any) -> list[dict[str, Any]]:
            tensors = [to_tensor(pixels).to(self.device) for pixels in images.to_pylist()]
            results = self.model(tensors)
            return [
                {name: result[name].cpu().tolist() for name in lists}
                | {"scored_at": time.time_ns() // 1000}
                for result in results
            ]

    paths, decoded = _images(folder)
    rows = paths.select("path", ObjectDetector()(decoded).alias("result"))
    columns = [daft.col("result")[name].alias(name) for name in (*lists, "scored_at")]
    rows.select("path", *columns).write_parquet(output)


def _images(folder: str) -> tuple[Any, Any]:
    """Give the table of the files of a folder, and the expression of their pixels."""
    import daft
    from daft.functions import (  # type: ignore[import-not-found]
        decode_image,
        download,
    )

    return daft.from_glob_path(f"{folder}/**"), decode_image(download(daft.col("path")), mode="RGB")


if __name__ == "__main__":
    os.environ |= {"DO_NOT_TRACK": "true", "DAFT_PROGRESS_BAR": "0"}
    _way, _folder, _batch_size, *_rest = sys.argv[1:]
    if _way == "feed":
        print(json.dumps(feed(_folder, int(_batch_size))))
    else:
        sys.path.append(os.environ["LENT_PACKAGES"])
        _output, _checkpoint, _max_proposals, _score_threshold = _rest
        detect(
            _folder,
            int(_batch_size),
            _output,
            _checkpoint,
            int(_max_proposals),
            float(_score_threshold),
        )
