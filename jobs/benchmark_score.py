"""`jobs/benchmark.py score`: the scoring chain beside the bare `Detector`, on the same images, in one run.

The bare Detector is a loop in one process with every core: it decodes, proposes and detects images that lie
in memory already. The chain reads them from a folder, does the same, checks, writes Parquet and a manifest.
Both are taken in turn, several times; a chain's rate is that of its middle rows, for a Ray cluster and a
Detector take seconds to start whatever the number of images.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import ray
import torch

from fastrcnn.checkpoint import save_checkpoint
from fastrcnn.config import LEARNED, FastRCNNConfig, ProposalConfig
from fastrcnn.rpn_config import RPNConfig
from pipeline import record, score, storage
from pipeline.config import ScoreConfig
from pipeline.detector import Detector
from pipeline.errors import UserError
from pipeline.images import IMAGE_SUFFIXES
from pipeline.initial_weights import initial_model

CHECKOUT = Path(__file__).resolve().parents[1]
_CLASSES = ("one", "two", "three")


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreBenchmarkConfig:
    """Flags of `jobs/benchmark.py score`."""

    images: Path
    """Local folder of images."""
    weights: str = "none"
    """Of the backbone, as for `jobs/train.py`; the time does not hang on them."""
    backbone: str = "mobilenet_v2"
    """As for `jobs/train.py`."""
    scale: int = 480
    """Shorter side in the model frame."""
    proposals: str = "selective_search"
    """Or grid, or rpn: the detector's own, with random weights like the rest."""
    max_proposals: int = 1000
    """Of an image."""
    count: int = 300
    """Images a round; the folder's are taken again where it holds fewer."""
    rounds: int = 3
    """Of bare Detector and chain in turn; medians count."""
    num_workers: int | None = None
    """Detectors of the chain."""
    batch_size: int = 8
    """Images a forward pass, of both."""
    output: Path = CHECKOUT / "benchmark-output" / "score"
    """Local folder for the table and results.json."""


def run(config: ScoreBenchmarkConfig) -> None:
    """Measure, print a table, and write results.json."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = _make_checkpoint(config, Path(folder) / "checkpoint")
        images = _link(config.images, Path(folder) / "images", config.count)
        bare, chained = [], []
        for round_ in range(config.rounds):
            bare.append(_bare(config, checkpoint, images))
            chained.append(_chain(config, checkpoint, Path(folder), round_))
    ratios = [chain / alone for chain, alone in zip(chained, bare, strict=True)]
    results = {
        "bare_images_per_second": bare,
        "chain_images_per_second": chained,
        "ratio": statistics.median(ratios),
        "config": {name: str(value) for name, value in asdict(config).items()},
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__}
        | {"ray": ray.__version__},
    }
    config.output.mkdir(parents=True, exist_ok=True)
    (config.output / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    lines = [f"{'':<36}{'images/s':>10}{'of the Detector':>18}"]
    lines += [f"{'bare Detector, images in memory':<36}{statistics.median(bare):>10.2f}{1:>18.2f}"]
    lines += [
        f"{'chain, folder to Parquet':<36}{statistics.median(chained):>10.2f}{results['ratio']:>18.2f}"
    ]
    print("\n".join(lines))


def _make_checkpoint(config: ScoreBenchmarkConfig, folder: Path) -> Path:
    own = RPNConfig(max_proposals_test=config.max_proposals)
    numbers = FastRCNNConfig.modern(
        len(_CLASSES),
        backbone=config.backbone,
        scale=config.scale,
        rpn=own if config.proposals == LEARNED else None,
    )
    model = initial_model(numbers, config.weights, 0, _CLASSES)
    proposals = ProposalConfig(name=config.proposals, max_boxes=config.max_proposals)
    save_checkpoint(folder, model, classes=_CLASSES, proposals=proposals, training={})
    return folder


def _link(source: Path, folder: Path, count: int) -> list[Path]:
    found = sorted(p for p in source.rglob("*") if p.name.lower().endswith(IMAGE_SUFFIXES))
    if not found:
        raise UserError(f"--images {source}", "holds no image", "Give a folder of photographs.")
    folder.mkdir()
    for number in range(count):
        path = found[number % len(found)]
        (folder / f"{number:06d}{path.suffix}").symlink_to(path.resolve())
    return sorted(folder.iterdir())


def _bare(config: ScoreBenchmarkConfig, checkpoint: Path, images: list[Path]) -> float:
    """Images a second of a plain loop."""
    data = [path.read_bytes() for path in images]
    # Random heads find nothing sure: the suppression of boxes is left out on both sides.
    detector = Detector(checkpoint, score_threshold=0.9)
    detector.detect(data[: config.batch_size])
    started = time.perf_counter()
    for first in range(0, len(data), config.batch_size):
        detector.detect(data[first : first + config.batch_size])
    return len(data) / (time.perf_counter() - started)


def _chain(config: ScoreBenchmarkConfig, checkpoint: Path, folder: Path, round_: int) -> float:
    """Images a second of the whole job, between its first and its last batch."""
    summary = score.run(
        ScoreConfig(
            images=str(folder / "images"),
            checkpoint=str(checkpoint),
            output=str(folder / f"results-{round_}"),
            batch_size=config.batch_size,
            num_workers=config.num_workers,
            score_threshold=0.9,
            shard_size=100,
        )
    )
    if summary.statuses != {"ok": config.count}:
        raise RuntimeError(f"rows are not what they should be: {summary.statuses}")
    shards = storage.list_objects(
        record.scored_uri(str(folder / f"results-{round_}"), summary.run_id)
    )
    times = np.sort(
        np.concatenate(
            [
                pq.read_table(info.uri, columns=["scored_at"])["scored_at"]
                .to_numpy()
                .astype("int64")
                for info in shards
            ]
        )
    )
    ray.shutdown()  # the bare Detector has the machine to itself
    first, last = np.quantile(times, [0.1, 0.95], method="nearest")
    rows = int(((times > first) & (times <= last)).sum())
    return rows / (float(last - first) / 1e6)
