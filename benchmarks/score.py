"""Run `jobs/benchmark.py score`: the scoring job compared with the detector alone and with Ray's example.

The detector alone is a loop in one process with all cores: it decodes, proposes and detects images in memory.
The scoring job reads the same images from a folder, does the same work, checks, and writes Parquet and a
manifest. Ray's documented example reads the same folder and writes Parquet too (`benchmarks/ray_example.py`).
Its detector is torchvision's Faster R-CNN with the same number of proposals. All three run in turn, several
times. The rates of the job and the example are those of their middle rows, because the start of Ray and of
the detector takes seconds for any number of images.

With --daft, Daft does the same as the example, with the same detector in one actor.

With --counts, only the scoring job is measured, once for each number of images: its rate should stay the
same.
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
from benchmarks.images import photographs, upload
from benchmarks.peers import require_peers, run_module
from benchmarks.rates import (
    comparison_lines,
    growth_lines,
    median_ratio,
    middle_rate,
    rate_of_all,
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
from pipeline.scoring.resources import size_cluster
from pipeline.training.initial_weights import initial_model

_CLASSES = ("one", "two", "three")
_SCORE_THRESHOLD = 0.9
"""With random heads no box has this score, so NMS takes no time in all three."""


class JobSpeed(NamedTuple):
    """The speed of one scoring job."""

    images_per_second: float
    """Rate of the middle rows."""
    seconds: float
    """Time from start to end, with the start of Ray."""


def run(config: ScoreBenchmarkConfig) -> None:
    """Measure, print a table, and write results.json."""
    if config.daft:
        require_peers("Daft")
    with tempfile.TemporaryDirectory() as folder, _place(config, Path(folder)) as place:
        checkpoint = _make_checkpoint(config, Path(folder) / "checkpoint")
        results = (_growth if config.counts else _comparison)(config, checkpoint, place)
    write_results(config, results)
    print("\n".join((growth_lines if config.counts else comparison_lines)(results)))


def _comparison(config: ScoreBenchmarkConfig, checkpoint: Path, place: str) -> dict[str, Any]:
    paths = photographs(config.images, config.count)
    images = upload(paths, storage.join(place, "images"))
    bare, chained, example, daft = [], [], [], []
    for round_ in range(config.rounds):
        bare.append(_bare(config, checkpoint, paths))
        results = storage.join(place, f"results-{round_}")
        chained.append(_chain(config, checkpoint, images, results, len(paths)).images_per_second)
        results = storage.join(place, f"example-{round_}")
        example.append(_example(config, checkpoint, images, results))
        if config.daft:
            results = storage.join(place, f"daft-{round_}")
            daft.append(_daft(config, checkpoint, images, results))
    measured: dict[str, Any] = {
        "bare_images_per_second": bare,
        "chain_images_per_second": chained,
        "ray_example_images_per_second": example,
        "ratio": median_ratio(chained, bare),
        "ray_example_ratio": median_ratio(example, bare),
        "times_as_fast_as_ray_example": median_ratio(chained, example),
    }
    if daft:
        measured["daft_images_per_second"] = daft
        measured["daft_ratio"] = median_ratio(daft, bare)
    return measured


def _growth(config: ScoreBenchmarkConfig, checkpoint: Path, place: str) -> dict[str, Any]:
    chained = []
    for count in config.counts:
        images = upload(photographs(config.images, count), storage.join(place, f"images-{count}"))
        results = storage.join(place, f"results-{count}")
        chained.append(_chain(config, checkpoint, images, results, count))
    return {
        "counts": config.counts,
        "chain_images_per_second": [c.images_per_second for c in chained],
        "seconds": [c.seconds for c in chained],
    }


@contextlib.contextmanager
def _place(config: ScoreBenchmarkConfig, folder: Path) -> Iterator[str]:
    """Give the place for images and results: the folder, or a bucket on a server that runs meanwhile."""
    if not config.bucket:
        yield str(folder)
        return
    servers.use_demo_credentials()
    with servers.s3_server(folder):
        servers.create_bucket("benchmark")
        yield "s3://benchmark"


def _make_checkpoint(config: ScoreBenchmarkConfig, folder: Path) -> Path:
    rpn = RPNConfig(max_proposals_test=config.max_proposals)
    numbers = FastRCNNConfig.modern(
        len(_CLASSES),
        backbone=config.backbone,
        scale=config.scale,
        rpn=rpn if config.proposals == LEARNED else None,
    )
    model = initial_model(numbers, config.weights, 0, _CLASSES)
    proposals = ProposalConfig(name=config.proposals, max_boxes=config.max_proposals)
    save_checkpoint(folder, model, classes=_CLASSES, proposals=proposals, training={})
    return folder


def _bare(config: ScoreBenchmarkConfig, checkpoint: Path, images: list[Path]) -> float:
    """Measure images per second of the detector alone."""
    data = [path.read_bytes() for path in images]
    detector = Detector(checkpoint, score_threshold=_SCORE_THRESHOLD)
    detector.detect(data[: config.batch_size])
    started = time.perf_counter()
    for first in range(0, len(data), config.batch_size):
        detector.detect(data[first : first + config.batch_size])
    return len(data) / (time.perf_counter() - started)


def _chain(
    config: ScoreBenchmarkConfig, checkpoint: Path, images: str, output: str, count: int
) -> JobSpeed:
    """Run the whole scoring job on a new cluster."""
    started = time.perf_counter()
    with cluster_of(config.nodes):
        summary = score.run(_score_config(config, checkpoint, images, output))
    seconds = time.perf_counter() - started
    if summary.statuses != {"ok": count}:
        raise RuntimeError(f"expected {count} rows with status ok, got {summary.statuses}")
    return JobSpeed(middle_rate(scored_at(record.scored_uri(output, summary.run_id))), seconds)


def _example(config: ScoreBenchmarkConfig, checkpoint: Path, images: str, output: str) -> float:
    """Measure images per second of Ray's example on a new cluster."""
    cluster.connect()
    score_config = _score_config(config, checkpoint, images, output)
    ray_example.detect_all(
        images,
        str(checkpoint),
        output,
        max_proposals=config.max_proposals,
        score_threshold=_SCORE_THRESHOLD,
        batch_size=config.batch_size,
        resources=size_cluster(score_config, cluster.nodes()),
    )
    ray.shutdown()
    return rate_of_all(scored_at(output), config.count)


def _daft(config: ScoreBenchmarkConfig, checkpoint: Path, images: str, output: str) -> float:
    """Measure images per second of Daft, in a process of another environment."""
    numbers = (config.max_proposals, _SCORE_THRESHOLD)
    run_module("daft_loop", "detect", images, config.batch_size, output, checkpoint, *numbers)
    return rate_of_all(scored_at(output), config.count)


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
