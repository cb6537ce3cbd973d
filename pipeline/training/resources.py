"""Choose CPUs and GPUs of each training worker."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.config import TrainConfig
from pipeline.errors import UserError
from pipeline.runtime import cluster
from pipeline.runtime.growing import Growth
from pipeline.runtime.placement import (
    Amounts,
    check_gpus_each,
    largest,
    num_fitting,
    num_placeable,
    total,
)


def worker_resources(config: TrainConfig, growth: Growth) -> dict[str, float]:
    """Give the resources of one worker, under the names "CPU" and "GPU".

    With GPUs, a worker gets its GPUs and one CPU. Without, it gets as many CPUs as the cluster has for it.
    A cluster that starts nodes is asked for them, and waited for.

    Raises:
        UserError: the cluster has too few. Ray would wait for ever.
        JobError: the nodes did not come in time.
    """
    gpus = config.gpus_per_worker
    if growth.grows:
        gpus = growth.gpus_each(gpus, config.most_workers)
        _check_shared_gpu(config, gpus)
        worker: Amounts = {"GPU": gpus, "CPU": 1} if gpus else {"CPU": 1}
        growth.wait_for(worker, count=config.most_workers, enough=config.fewest_workers)
    nodes = cluster.nodes()
    if gpus is None:
        gpus = 1.0 if largest(nodes, "GPU") >= 1 else 0.0
    if gpus:
        _check_shared_gpu(config, gpus)
        _check_room(config, nodes, gpus)
        return {"CPU": 1, "GPU": gpus}
    cpus = [node.get("CPU", 0.0) for node in nodes]
    counts = range(config.most_workers, config.fewest_workers - 1, -1)
    each = next(filter(None, (cpus_each(cpus, count) for count in counts)), 0)
    if not each:
        raise UserError(
            _fewest(config),
            f"need one CPU each, the cluster has {sum(cpus):g}",
            "Give fewer workers.",
        )
    return {"CPU": each, "GPU": 0}


def _fewest(config: TrainConfig) -> str:
    flag = "--num-workers" if config.min_workers is None else "--min-workers"
    return f"{flag} {config.fewest_workers}"


def _check_shared_gpu(config: TrainConfig, gpus: float) -> None:
    """Raise UserError if two workers may get the same GPU: NCCL, which joins them, refuses that."""
    if config.most_workers > 1 and num_fitting({"GPU": 1}, {"GPU": gpus or 1}) > 1:
        raise UserError(
            f"--gpus-per-worker {gpus:g} --num-workers {config.num_workers}",
            "two training workers would share a GPU, which NCCL refuses",
            "Give --gpus-per-worker 1, or --num-workers 1.",
        )


def _check_room(config: TrainConfig, nodes: Sequence[Amounts], gpus: float) -> None:
    """Raise UserError unless the nodes have room for the fewest workers."""
    fewest, have = config.fewest_workers, total(nodes, "GPU")
    if gpus * fewest > have:
        raise UserError(
            _fewest(config),
            f"need {gpus * fewest:g} GPUs, the cluster has {have:g}",
            "Give fewer workers, or --gpus-per-worker 0.",
        )
    check_gpus_each(nodes, gpus)
    room = num_placeable(nodes, {"GPU": gpus, "CPU": 1})
    if room < fewest:
        raise UserError(
            _fewest(config),
            f"each needs {gpus:g} GPUs and a CPU on one node, and the nodes have room for {room}",
            "Give fewer workers, or nodes with more GPUs and CPUs.",
        )


def cpus_each(nodes: Sequence[float], num_workers: int) -> int:
    """Give the largest number of CPUs that each worker can have. A worker runs on one node.

    Args:
        nodes: CPUs of each node.

    Example:
        Nodes of 2 and 2 CPUs: one worker gets 2, two get 2, three or four get 1, five get 0.
    """
    most = int(max(nodes, default=0))
    fits = (c for c in range(most, 0, -1) if sum(n // c for n in nodes) >= num_workers)
    return next(fits, 0)
