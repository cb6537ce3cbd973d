"""What of the cluster each training worker is given."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.config import TrainConfig
from pipeline.errors import UserError
from pipeline.runtime import cluster


def worker_resources(config: TrainConfig) -> dict[str, float]:
    """ "CPU" and "GPU" of one worker: a CPU beside its GPU, or without GPUs as many CPUs as there are for it.

    Raises:
        UserError: the cluster has not enough of them. Ray would wait for ever.
    """
    there = cluster.resources()
    gpus = config.gpus_per_worker
    if gpus is None:
        gpus = 1.0 if there.get("GPU", 0) >= 1 else 0.0
    fewest = config.fewest_workers
    flag = "--num-workers" if config.min_workers is None else "--min-workers"
    if gpus * fewest > there.get("GPU", 0):
        raise UserError(
            f"{flag} {fewest}",
            f"need {gpus * fewest:g} GPUs, the cluster has {there.get('GPU', 0):g}",
            "Give fewer workers or --gpus-per-worker 0.",
        )
    if gpus:
        return {"CPU": 1, "GPU": gpus}
    nodes = cluster.node_cpus()
    counts = range(config.num_workers, fewest - 1, -1)
    cpus = next(filter(None, (cpus_each(nodes, count) for count in counts)), 0)
    if not cpus:
        raise UserError(
            f"{flag} {fewest}",
            f"need a CPU each, the cluster has {there.get('CPU', 0):g}",
            "Give fewer workers.",
        )
    return {"CPU": cpus, "GPU": 0}


def cpus_each(nodes: Sequence[float], num_workers: int) -> int:
    """Most CPUs that each of the workers can have: one worker never lies on two nodes.

    Example:
        Nodes of 2 and 2 CPUs: one worker gets 2, two get 2, three or four get 1, five get 0.
    """
    most = int(max(nodes, default=0))
    fits = (c for c in range(most, 0, -1) if sum(n // c for n in nodes) >= num_workers)
    return next(fits, 0)
