"""Run `jobs/benchmark.py proposals`: recall, number and time of the boxes of each proposer on labelled
images.

Each image is given to all proposers in turn, in one thread of one process. Ratios are computed per image, so
other work on the machine slows all proposers alike. Times are CPU times without decoding.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import cv2
import numpy as np

from benchmarks import CHECKOUT
from benchmarks.config import ProposalsConfig
from benchmarks.images import Boxes, Image, read
from benchmarks.plot import recall_against_time
from benchmarks.results import write_results
from fastrcnn.config import ProposalConfig
from fastrcnn.metrics.recall import ProposalRecall, proposal_recall
from fastrcnn.proposals import PROPOSERS, prepare, propose
from fastrcnn.proposals.opencv import opencv_rects
from pipeline.errors import UserError

logger = logging.getLogger(__name__)

REFERENCE = "opencv-fast"
"""OpenCV's fast mode without changes: its order of boxes, and boxes of any size."""
CUTS = (100, 300, 1000, 2000)
SIZES = {"<32": (0, 32), "32-96": (32, 96), ">96": (96, 1e9)}
"""Object sizes: the square root of the area in pixels (COCO's small, medium, large)."""


@dataclass(slots=True)
class Measured:
    """Boxes and times of one proposer on one data set, one entry per image."""

    boxes: list[Boxes] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def run(config: ProposalsConfig) -> None:
    """Measure, print the table, and write table.txt, recall.png and results.json."""
    settings = {text: parse(text) for text in config.proposers}
    for proposals in settings.values():
        prepare(proposals)
    cv2.setNumThreads(1)
    rows = []
    memory = {text: worker_memory(proposals) for text, proposals in settings.items()}
    sets = read(config.data, config.split, config.limit, config.mosaic)
    for name, images in sets.items():
        logger.info("%s: %d images", name, len(images))
        measured = measure(images, settings, reference=config.reference)
        rows += [
            summary(name, text, result, [gt for _, gt in images], measured.get(REFERENCE))
            for text, result in measured.items()
        ]
    rows += macro(rows)
    table = "\n".join(lines(rows, memory, config.price_per_core_hour))
    config.output.mkdir(parents=True, exist_ok=True)
    (config.output / "table.txt").write_text(table + "\n")
    write_results(config, {"rows": rows, "worker_memory_mb": memory})
    (config.output / "recall.png").write_bytes(recall_against_time(rows))
    print(f"{table}\n\ntable, plot and numbers: {config.output}")


def parse(text: str) -> ProposalConfig:
    """Read a proposer given as `NAME[,SETTING=VALUE...]`.

    Raises:
        UserError: an unknown proposer or setting, or a wrong value.
    """
    name, *settings = text.split(",")
    try:
        values = dict(setting.split("=") for setting in settings)
        changes: dict[str, Any] = {k: int(v) if v.isdigit() else v for k, v in values.items()}
        if name not in PROPOSERS:
            raise ValueError(f"expected one of {', '.join(PROPOSERS)}")
        for key in ("k", "strategies"):  # several values, with slashes between
            if key in changes:
                parts = str(changes[key]).split("/")
                changes[key] = tuple(int(p) if p.isdigit() else p for p in parts)
        return ProposalConfig(name=name, **changes)
    except (TypeError, ValueError) as error:
        raise UserError(f"--proposers {text}", str(error), "Give NAME,SETTING=VALUE.") from error


def measure(
    images: list[tuple[Image, Boxes]], settings: dict[str, ProposalConfig], *, reference: bool
) -> dict[str, Measured]:
    """Run every proposer on every image. The outer loop is over images."""
    names = [*([REFERENCE] if reference else []), *settings]
    measured = {name: Measured() for name in names}
    for pixels, _ in images:
        for name, result in measured.items():
            started = time.thread_time()
            boxes = opencv_fast(pixels) if name == REFERENCE else propose(pixels, settings[name])
            result.seconds.append(time.thread_time() - started)
            result.boxes.append(boxes)
    return measured


def opencv_fast(image: Image) -> Boxes:
    """Give all boxes of OpenCV's fast mode, in its (unseeded) order: small boxes first."""
    rects = opencv_rects(image, "fast").astype(np.float32)
    return np.concatenate([rects[:, :2], rects[:, :2] + rects[:, 2:]], axis=1)


def summary(
    data: str, proposer: str, measured: Measured, gt_boxes: list[Boxes], reference: Measured | None
) -> dict[str, Any]:
    """Give one row of the table. Times are medians over images."""
    ratios = (
        [theirs / ours for theirs, ours in zip(reference.seconds, measured.seconds, strict=True)]
        if reference
        else [float("nan")]
    )
    row: dict[str, Any] = {
        "data": data,
        "proposer": proposer,
        "images": len(gt_boxes),
        "ms": 1000 * float(np.median(measured.seconds)),
        "times_faster": float(np.median(ratios)),
        "boxes": float(np.mean([min(len(b), CUTS[-1]) for b in measured.boxes])),
        "at": {cut: _recall([b[:cut] for b in measured.boxes], gt_boxes) for cut in CUTS},
        "sizes": {},
    }
    for size, (low, high) in SIZES.items():
        sides = [np.sqrt((gt[:, 2] - gt[:, 0]) * (gt[:, 3] - gt[:, 1])) for gt in gt_boxes]
        of_size = [gt[(low <= s) & (s < high)] for gt, s in zip(gt_boxes, sides, strict=True)]
        row["sizes"][size] = _recall([b[: CUTS[-1]] for b in measured.boxes], of_size)
    return row


def _recall(boxes: list[Boxes], gt_boxes: list[Boxes]) -> dict[str, float]:
    measured: ProposalRecall = proposal_recall(boxes, gt_boxes, (0.5, 0.7))
    half, strict = measured.recalls
    return {"r50": half, "r70": strict, "ar": measured.average_recall, "objects": measured.num_gt}


def macro(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give the mean over the data sets, all with the same weight. Mosaics are left out."""
    real = [row for row in rows if row["data"] != "mosaic"]
    means = []
    for proposer in dict.fromkeys(row["proposer"] for row in real):
        of_proposer = [row for row in real if row["proposer"] == proposer]
        mean: dict[str, Any] = {"data": "macro", "proposer": proposer, "sizes": {}}
        mean["images"] = sum(row["images"] for row in of_proposer)
        for key in ("ms", "times_faster", "boxes"):
            mean[key] = float(np.mean([row[key] for row in of_proposer]))
        mean["at"] = {
            cut: {
                k: float(np.mean([row["at"][cut][k] for row in of_proposer]))
                for k in of_proposer[0]["at"][cut]
            }
            for cut in CUTS
        }
        means.append(mean)
    return means


def lines(rows: list[dict[str, Any]], memory: dict[str, float], price: float) -> Iterator[str]:
    """Write the table, and what the times mean for a cluster."""
    cells = "".join(f"{f'@{cut}':>21}" for cut in CUTS) + "".join(f"{s:>14}" for s in SIZES)
    yield "recall at IoU .5 / at .7 / average recall; by size at 2000: recall at .5 / at .7"
    yield f"{'data':<14}{'proposer':<40}{'ms':>8}{'x':>7}{'boxes':>7}{cells}"
    for row in rows:
        cells = "".join(f"{_three(row['at'][cut]):>21}" for cut in CUTS)
        cells += "".join(f"{_two(row['sizes'].get(size)):>14}" for size in SIZES)
        yield (
            f"{row['data']:<14}{row['proposer']:<40}{row['ms']:>8.1f}{row['times_faster']:>7.0f}"
            f"{row['boxes']:>7.0f}{cells}"
        )
    yield ""
    yield f"{'proposer (macro)':<40}{'cores at 100/s':>16}{'at 400/s':>10}{'$ / 100M':>10}{'MB':>6}"
    for row in rows:
        if row["data"] == "macro":
            dollars = row["ms"] / 1000 * 1e8 / 3600 * price
            megabytes = memory.get(row["proposer"], float("nan"))
            yield (
                f"{row['proposer']:<40}{row['ms'] / 10:>16.1f}{row['ms'] * 0.4:>10.1f}{dollars:>10.0f}"
                f"{megabytes:>6.0f}"
            )


def _three(recall: dict[str, float]) -> str:
    return " / ".join(f"{recall[k]:.3f}".lstrip("0") for k in ("r50", "r70", "ar"))


def _two(recall: dict[str, float] | None) -> str:
    if recall is None or not recall["objects"]:
        return "-"
    return " / ".join(f"{recall[k]:.2f}".lstrip("0") for k in ("r50", "r70"))


_WORKER = """
import json, sys
import numpy as np
from fastrcnn.config import ProposalConfig
from fastrcnn.proposals import prepare, propose
config = ProposalConfig(**json.loads(sys.argv[1]))
prepare(config)
pixels = np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)
propose(pixels, config)
(peak,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(int(peak.split()[1]) / 1024)
"""


def worker_memory(proposals: ProposalConfig) -> float:
    """Measure the peak memory in MB of a process that runs the proposer on 640 x 480 pixels of noise.

    Noise needs the most memory.
    """
    command = [sys.executable, "-c", _WORKER, json.dumps(asdict(proposals))]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    return float(done.stdout)
