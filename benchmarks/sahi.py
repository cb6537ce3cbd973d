"""Run `jobs/benchmark.py sahi`: detection in tiles, compared with SAHI's sliced prediction.

Both use the same detector, tiles, thresholds and suppression, in turns in one process, and look at the whole
image too. SAHI is in the environment of other tools (`make peers`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.config import SahiConfig
from benchmarks.peers import require_peers, run_module
from benchmarks.results import write_results
from fastrcnn.metrics.inputs import pairwise_iou
from pipeline import storage
from pipeline.draw_scenes import write_split
from pipeline.drawing.large_scenes import draw_large_scene
from pipeline.drawing.scenes import scene_rng

AGREE_IOU = 0.9
"""A box of one way is also one of the other way if it has one of its class above this IoU."""


def run(config: SahiConfig) -> None:
    """Draw the images, measure, print a table, and write results.json and sahi.md."""
    require_peers("SAHI")
    images = scenes(config)
    checkpoint = storage.absolute(str(config.checkpoint))
    numbers = (config.tile, config.tile_overlap, config.min_score, config.rounds)
    output = run_module("sahi_loop", checkpoint, *numbers, *images)
    measured = [summary(result) for result in json.loads(output.splitlines()[-1])]
    write_results(config, measured)
    (config.output / "sahi.md").write_text(table(measured))
    print(table(measured), end="")


def scenes(config: SahiConfig) -> list[str]:
    """Draw large scenes with objects of all sizes, and give their files."""
    folder = config.output / "scenes"
    drawn = (
        (number, draw_large_scene(scene_rng(config.seed, number), config.size))
        for number in range(config.images)
    )
    write_split(folder, "test", drawn)
    return [str(path) for path in sorted((folder / "JPEGImages").iterdir())]


def summary(result: Mapping[str, Any]) -> dict[str, Any]:
    """Turn the boxes of an image into the shares on which both ways agree."""
    boxes = {way: np.array(result[way]["boxes"], float).reshape(-1, 6) for way in ("ours", "sahi")}
    return {
        "image": Path(result["image"]).name,
        "tiles": result["tiles"],
        "seconds": {way: result[way]["seconds"] for way in boxes},
        "boxes": {way: len(rows) for way, rows in boxes.items()},
        "ours_in_sahi": share_in(boxes["ours"], boxes["sahi"]),
        "sahi_in_ours": share_in(boxes["sahi"], boxes["ours"]),
    }


def share_in(boxes: np.ndarray[Any, Any], others: np.ndarray[Any, Any]) -> float:
    """Compute the share of boxes (D, 6) that have one of their class among the others, above `AGREE_IOU`."""
    if not len(boxes):
        return 1.0
    same = pairwise_iou(boxes[:, :4], others[:, :4]) > AGREE_IOU
    same &= boxes[:, None, 4] == others[:, 4]
    return float(same.any(axis=1).mean())


def table(measured: Sequence[Mapping[str, Any]]) -> str:
    """Write the table in Markdown."""
    lines = [
        "| image | tiles | ours, s | SAHI, s | ratio | boxes of both | ours in SAHI's | SAHI's in ours |",
        "| --- | ---: | ---: | ---: | ---: | --- | ---: | ---: |",
    ]
    for row in measured:
        ours, theirs = row["seconds"]["ours"], row["seconds"]["sahi"]
        lines.append(
            f"| {row['image']} | {row['tiles']} | {ours:.2f} | {theirs:.2f} | {theirs / ours:.2f} |"
            f" {row['boxes']['ours']}, {row['boxes']['sahi']} | {row['ours_in_sahi']:.1%} |"
            f" {row['sahi_in_ours']:.1%} |"
        )
    total = {way: sum(row["seconds"][way] for row in measured) for way in ("ours", "sahi")}
    lines.append(
        f"| all | | {total['ours']:.2f} | {total['sahi']:.2f} | {total['sahi'] / total['ours']:.2f} | | | |"
    )
    return "\n".join(lines) + "\n"
