"""Decides how many Detectors a scoring job has, on a cluster that starts nodes and on one that does not."""

from __future__ import annotations

import logging
import math
from dataclasses import replace

from ray.data import DataContext, ExecutionResources

from pipeline.config import ScoreConfig
from pipeline.runtime import cluster
from pipeline.runtime.growing import Growth
from pipeline.runtime.placement import Amounts
from pipeline.scoring.resources import Resources, size_cluster

logger = logging.getLogger(__name__)

MOST_DETECTORS = 10_000
"""Detectors where nothing else limits them."""


def sized(
    config: ScoreConfig,
    fixed: Resources | None,
    growth: Growth,
    useful: int,
    *,
    detectors_decode: bool,
) -> Resources:
    """Bound the number of Detectors by what the images are worth. If the cluster starts nodes, wait for one.

    Args:
        config: the flags.
        fixed: how a cluster is divided that starts no nodes, else None.
        growth: the nodes of the cluster.
        useful: the number of Detectors that the images are worth. 0: there is nothing to score.
        detectors_decode: as in `size_cluster`.

    Raises:
        UserError: the cluster can never run a Detector.
        JobError: no node came in time.
    """
    if fixed is not None:
        return replace(fixed, workers=min(fixed.workers, max(1, useful)))
    if not useful:
        return Resources(cpus=0, gpus=0, workers=1, detector_cpus=1, detector_gpus=0, read_cpus=0.9)
    first = _first_nodes(config, growth, useful, detectors_decode)
    return _grow(config, first, useful, growth)


def _first_nodes(
    config: ScoreConfig, growth: Growth, useful: int, detectors_decode: bool
) -> Resources:
    gpus = growth.gpus_each(config.gpus_per_worker)
    growth.wait_for(_worker(gpus), count=min(config.most_workers or 1, useful), enough=1)
    # Without --num-workers, which may be more than what is there now.
    config = replace(
        config, gpus_per_worker=gpus, num_workers=None, max_workers=config.most_workers
    )
    return size_cluster(config, cluster.nodes(), detectors_decode=detectors_decode)


def _grow(config: ScoreConfig, resources: Resources, useful: int, growth: Growth) -> Resources:
    """Ask for the nodes that the Detectors need.

    Ray Data adds Detectors as nodes come. Where neither a flag nor the cluster limits their number, it also
    asks for one more node of each kind as long as those that are there are busy.
    """
    worker = _worker(resources.detector_gpus)
    most = config.most_workers or growth.most_placeable(worker)
    workers = min(useful, MOST_DETECTORS if most is None else max(most, resources.workers))
    growth.ask(None if most is None else [worker] * workers + [{"CPU": 1}])
    if config.most_workers is not None:
        DataContext.get_current().execution_options.resource_limits = _limits(resources, workers)
    logger.info("the cluster starts nodes: Detectors are added as they come, at most %d", workers)
    return replace(resources, workers=workers)


def _worker(gpus: float) -> Amounts:
    return {"GPU": gpus} if gpus else {"CPU": 1}


def _limits(resources: Resources, workers: int) -> ExecutionResources:
    """Bound what Ray Data uses and asks for. Reading gets a third of the CPUs of the Detectors."""
    if resources.detector_gpus:
        return ExecutionResources(gpu=workers * resources.detector_gpus)
    cpus = workers * resources.detector_cpus
    return ExecutionResources(cpu=math.ceil(cpus + max(1.0, cpus / 3)))
