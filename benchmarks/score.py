"""`jobs/benchmark.py score`: the scoring chain beside the bare `Detector` and Ray's example, in one run.

The bare Detector is a loop in one process with every core: it decodes, proposes and detects images that lie
in memory already. The chain reads them from a folder, does the same, checks, writes Parquet and a manifest.
Ray's documented example reads the same folder and writes Parquet too (`benchmarks/ray_example.py`); its
detector is torchvision's Faster R-CNN, whatever proposes here, with as many proposals. All are taken in turn,
several times; the rate of the two that Ray runs is that of their middle rows, for a Ray cluster and a
Detector take seconds to start whatever the number of images.

With --counts the chain alone, once for each number of images: what it costs grows as they do, or not.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ray

from benchmarks import ray_example
from benchmarks.cluster import cluster_of
from benchmarks.config import ScoreBenchmarkConfig
from benchmarks.images import photographs, put
from benchmarks.rates import (
    comparison_lines,
    growth_lines,
    median_ratio,
    middle_rate,
    scored_at,
)
from benchmarks.results import write_results
from demo import servers
from fastrcnn.checkpoint import save_checkpoint
from fastrcnn.config import LEARNED, FastRCNNConfig, ProposalConfig, RPNConfig
from pipeline import record, score, storage
from pipeline.config import ScoreConfig
from pipeline.detector import Detector
from pipeline.runtime import cluster
from pipeline.scoring.preflight import size_cluster
from pipeline.training.initial_weights import initial_model

_CLASSES = ("one", "two", "three")
# Random heads find nothing sure: the suppression of boxes is left out on every side.
_SCORE_THRESHOLD = 0.9


class Chained(NamedTuple):
    """A run of the chain."""

    images_per_second: float
    """Between its middle rows."""
    seconds: float
    """From start to end, of Ray too."""


def run(config: ScoreBenchmarkConfig) -> None:
    """Measure, print a table, and write results.json."""
    with tempfile.TemporaryDirectory() as folder, _place(config, Path(folder)) as place:
        checkpoint = _make_checkpoint(config, Path(folder) / "checkpoint")
        results = (_growth if config.counts else _comparison)(config, checkpoint, place)
    write_results(config, results)
    print("\n".join((growth_lines if config.counts else comparison_lines)(results)))


def _comparison(config: ScoreBenchmarkConfig, checkpoint: Path, place: str) -> dict[str, Any]:
    paths = photographs(config.images, config.count)
    images = put(paths, storage.join(place, "images"))
    bare, chained, example = [], [], []
    for round_ in range(config.rounds):
        bare.append(_bare(config, checkpoint, paths))
        results = storage.join(place, f"results-{round_}")
        chained.append(_chain(config, checkpoint, images, results, len(paths)).images_per_second)
        results = storage.join(place, f"example-{round_}")
        example.append(_example(config, checkpoint, images, results))
    return {
        "bare_images_per_second": bare,
        "chain_images_per_second": chained,
        "ray_example_images_per_second": example,
        "ratio": median_ratio(chained, bare),
        "ray_example_ratio": median_ratio(example, bare),
        "times_as_fast_as_ray_example": median_ratio(chained, example),
    }


def _growth(config: ScoreBenchmarkConfig, checkpoint: Path, place: str) -> dict[str, Any]:
    chained = []
    for count in config.counts:
        images = put(photographs(config.images, count), storage.join(place, f"images-{count}"))
        results = storage.join(place, f"results-{count}")
        chained.append(_chain(config, checkpoint, images, results, count))
    return {
        "counts": config.counts,
        "chain_images_per_second": [c.images_per_second for c in chained],
        "seconds": [c.seconds for c in chained],
    }


@contextlib.contextmanager
def _place(config: ScoreBenchmarkConfig, folder: Path) -> Iterator[str]:
    """Where images and results lie: the folder, or a bucket of a server that runs meanwhile."""
    if not config.bucket:
        yield str(folder)
        return
    servers.own_store()
    with servers.s3_server(folder):
        servers.create_bucket("benchmark")
        yield "s3://benchmark"


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


def _bare(config: ScoreBenchmarkConfig, checkpoint: Path, images: list[Path]) -> float:
    """Images a second of a plain loop."""
    data = [path.read_bytes() for path in images]
    detector = Detector(checkpoint, score_threshold=_SCORE_THRESHOLD)
    detector.detect(data[: config.batch_size])
    started = time.perf_counter()
    for first in range(0, len(data), config.batch_size):
        detector.detect(data[first : first + config.batch_size])
    return len(data) / (time.perf_counter() - started)


def _chain(
    config: ScoreBenchmarkConfig, checkpoint: Path, images: str, output: str, count: int
) -> Chained:
    """The whole job, on a cluster of its own."""
    started = time.perf_counter()
    with cluster_of(config.nodes):
        summary = score.run(_score_config(config, checkpoint, images, output))
    seconds = time.perf_counter() - started
    if summary.statuses != {"ok": count}:
        raise RuntimeError(f"rows are not what they should be: {summary.statuses}")
    return Chained(middle_rate(scored_at(record.scored_uri(output, summary.run_id))), seconds)


def _example(config: ScoreBenchmarkConfig, checkpoint: Path, images: str, output: str) -> float:
    """Images a second of Ray's example, on a cluster of its own."""
    cluster.connect()
    own = _score_config(config, checkpoint, images, output)
    ray_example.detect_all(
        images,
        str(checkpoint),
        output,
        max_proposals=config.max_proposals,
        score_threshold=_SCORE_THRESHOLD,
        batch_size=config.batch_size,
        resources=size_cluster(own, cluster.resources(), cluster.node_cpus()),
    )
    ray.shutdown()
    times = scored_at(output)
    if len(times) != config.count:
        raise RuntimeError(f"{len(times)} rows of {config.count} images")
    return middle_rate(times)


def _score_config(
    config: ScoreBenchmarkConfig, checkpoint: Path, images: str, output: str
) -> ScoreConfig:
    return ScoreConfig(
        images=images,
        checkpoint=str(checkpoint),
        output=output,
        batch_size=config.batch_size,
        num_workers=config.num_workers,
        score_threshold=_SCORE_THRESHOLD,
        shard_size=100,
    )
