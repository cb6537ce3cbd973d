"""Run `jobs/benchmark.py decode`: measure the cost of the guard on valid JPEGs, compared with other decoders.

Each image is decoded by all decoders in turn, in a random order, in one thread of one process. Times are CPU
times of that thread. Ratios are computed per image, so other work on the machine slows all decoders alike.
The table has medians of times and ratios. PyTurboJPEG is measured if it and its library are installed; no job
needs it. A second table has the other formats, see `benchmarks.decode_formats`.
"""

from __future__ import annotations

import importlib
import io
import logging
import random
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
import simplejpeg
import torch
import torchvision
from PIL import Image

from benchmarks.config import DecodeConfig
from benchmarks.decode_formats import format_lines, measure_formats
from benchmarks.results import write_results
from pipeline import storage
from pipeline.errors import UserError
from pipeline.images import decode
from pipeline.images.guard import ImageError, sniff
from pipeline.images.jpeg import read_jpeg

logger = logging.getLogger(__name__)

OURS = "pipeline.images.decode"
GUARD = "its guard alone"

Decoder = Callable[[bytes], Any]


def run(config: DecodeConfig) -> None:
    """Measure, print the table, and write table.txt and results.json."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    calls = decoders()
    rows, formats = [], list[dict[str, Any]]()
    for uri in config.data:
        images = list(plain_jpegs(uri, config.limit))
        if not images:
            raise UserError(
                f"--data {uri}", "no plain JPEG in this folder", "Give a folder of photographs."
            )
        logger.info("%s: %d images", uri, len(images))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torchvision warns at every image
            seconds = measure(images, calls, config.rounds)
        rows += summary(storage.basename(uri.rstrip("/")), images, seconds)
        if not formats:
            chosen = images[:: max(1, len(images) // config.format_images)][: config.format_images]
            formats = measure_formats(chosen, config.rounds, config.before)
    table = "\n".join([*lines(rows), "", *format_lines(formats, config.before is not None)])
    config.output.mkdir(parents=True, exist_ok=True)
    (config.output / "table.txt").write_text(table + "\n")
    write_results(config, rows + formats)
    print(f"{table}\n\ntable and numbers: {config.output}")


def plain_jpegs(uri: str, limit: int) -> Iterator[bytes]:
    """Read JPEGs that are decoded in this process. Others are decoded in another process, which is not
    measured."""
    jpegs = [o for o in storage.list_objects(uri) if o.uri.lower().endswith((".jpg", ".jpeg"))]
    for item in jpegs[:: max(1, len(jpegs) // limit)][:limit]:
        data = storage.read_bytes(item.uri)
        try:
            if sniff(data) == "JPEG" and read_jpeg(data).odd is None:
                yield data
        except ImageError as error:
            logger.warning("image left out: %s: %s", item.uri, error)


def decoders() -> dict[str, Decoder]:
    """Give the decoders by name and version: functions from bytes to RGB pixels.

    Each is called as its documentation says for the same pixels.
    """
    rgb = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    mode = torchvision.io.ImageReadMode.RGB

    def by_torchvision(data: bytes) -> Any:
        return torchvision.io.decode_jpeg(
            torch.frombuffer(bytearray(data), dtype=torch.uint8), mode
        )

    calls: dict[str, Decoder] = {
        OURS: decode,
        GUARD: lambda data: (sniff(data), read_jpeg(data)),
        "simplejpeg": lambda data: simplejpeg.decode_jpeg(data, "RGB"),
        f"OpenCV {cv2.__version__}": lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), rgb),
        f"torchvision {torchvision.__version__}": by_torchvision,
        "Pillow": lambda data: np.asarray(Image.open(io.BytesIO(data)).convert("RGB")),
    }
    try:
        turbo = importlib.import_module("turbojpeg")
        jpeg = turbo.TurboJPEG()
    except (ImportError, RuntimeError) as error:
        logger.info("PyTurboJPEG is not measured: %s", error)
    else:
        calls["PyTurboJPEG"] = lambda data: jpeg.decode(data, pixel_format=turbo.TJPF_RGB)
    return calls


def measure(images: list[bytes], calls: dict[str, Decoder], rounds: int) -> dict[str, list[float]]:
    """Measure the seconds of each decoder on each image: medians over the rounds."""
    order = random.Random(0)
    names = list(calls)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for data in images:
        taken: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(rounds):
            order.shuffle(names)
            for name in names:
                started = time.thread_time()
                pixels = calls[name](data)
                taken[name].append(time.thread_time() - started)
                del pixels  # so that the next decoder's time does not include freeing it
        for name, times in taken.items():
            seconds[name].append(float(np.median(times)))
    return seconds


def summary(
    data: str, images: list[bytes], seconds: dict[str, list[float]]
) -> list[dict[str, Any]]:
    """Give one row per decoder: ms per image, and this project's speed as a share of the decoder's speed.

    Both are medians over images.
    """
    ours = np.array(seconds[OURS])
    return [
        {
            "data": data,
            "images": len(images),
            "kilobytes": float(np.median([len(image) for image in images])) / 1000,
            "decoder": name,
            "ms": 1000 * float(np.median(times)),
            "ours": float(np.median(np.array(times) / ours)),
        }
        for name, times in seconds.items()
    ]


def lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Write the table, and this project's speed compared with the fastest decoder."""
    yield f"{'data':<16}{'decoder':<28}{'ms/image':>12}{'our share of speed':>20}"
    for row in rows:
        share = "" if row["decoder"] in (OURS, GUARD) else f"{row['ours']:.3f}"
        yield f"{row['data']:<16}{row['decoder']:<28}{row['ms']:>12.3f}{share:>20}"
    for data in dict.fromkeys(row["data"] for row in rows):
        others = [r for r in rows if r["data"] == data and r["decoder"] not in (OURS, GUARD)]
        fastest = min(others, key=lambda row: row["ours"])
        yield f"{data}: {fastest['ours']:.3f} of the fastest, {fastest['decoder']}"
