"""python -m benchmarks.daft_loop FOLDER BATCH_SIZE

Reads and decodes the images of a folder with Daft, into an actor that does nothing with the pixels. It runs
in `.venv-peers`, which has Daft. The last line of the output has the time of each image in microseconds, as
JSON.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any


def measure(folder: str, batch_size: int) -> list[int]:
    """Give the times at which the actor had the pixels of each image, in microseconds."""
    import daft  # type: ignore[import-not-found]
    from daft.functions import (  # type: ignore[import-not-found]
        decode_image,
        download,
    )

    @daft.cls(max_concurrency=1)
    class PixelActor:
        """Takes the pixels of a batch, and drops them."""

        @daft.method.batch(return_dtype=daft.DataType.int64(), batch_size=batch_size)  # type: ignore[untyped-decorator]
        def take(self, images: Any) -> list[int]:
            arrays = images.to_pylist()
            for pixels in arrays:
                pixels[::64, ::64].sum()
            return [time.time_ns() // 1000] * len(arrays)

    paths = daft.from_glob_path(f"{folder}/**")
    decoded = decode_image(download(daft.col("path")), mode="RGB")
    rows = paths.select(PixelActor().take(decoded).alias("taken_at"))
    return [row["taken_at"] for row in rows.iter_rows()]


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
