"""Choose CPUs and GPUs of each training worker."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.config import TrainConfig
from pipeline.errors import UserError
from pipeline.runtime import cluster


def worker_resources(config: TrainConfig) -> dict[str, float]:
    """Give the resources of one worker, under the names "CPU" and "GPU".

    With GPUs, a worker gets its GPUs and one CPU. Without, it gets as many CPUs as the cluster has for it.

    Raises:
        UserError: the cluster has too few. Ray would wait for ever.
    """
    available = cluster.resources()
    gpus = config.gpus_per_worker
    if gpus is None:
        gpus = 1.0 if available.get("GPU", 0) >= 1 else 0.0
    fewest = config.fewest_workers
    flag = "--num-workers" if config.min_workers is None else "--min-workers"
    if gpus * fewest > available.get("GPU", 0):
        raise UserError(
            f"{flag} {fewest}",
            f"need {gpus * fewest:g} GPUs, the cluster has {available.get('GPU', 0):g}",
            "Give fewer workers, or --gpus-per-worker 0.",
        )
    if gpus:
        return {"CPU": 1, "GPU": gpus}
    nodes = cluster.node_cpus()
    counts = range(config.num_workers, fewest - 1, -1)
    cpus = next(filter(None, (cpus_each(nodes, count) for count in counts)), 0)
    if not cpus:
        raise UserError(
            f"{flag} {fewest}",
            f"need one CPU each, the cluster has {available.get('CPU', 0):g}",
            "Give fewer workers.",
        )
    return {"CPU": cpus, "GPU": 0}


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
