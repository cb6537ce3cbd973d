"""Start Ray clusters of several nodes on one machine, for `jobs/benchmark.py`."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator

import ray
from ray.cluster_utils import Cluster

from benchmarks import CHECKOUT
from pipeline.runtime import cluster


@contextlib.contextmanager
def cluster_of(nodes: int) -> Iterator[None]:
    """Start a cluster for one measurement and stop it after, so that the next has the whole machine.

    With one node, the job starts the cluster itself.
    """
    if nodes == 1:
        yield
        ray.shutdown()
        return
    cluster.set_random_token()
    ray_cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "num_gpus": 0})
    try:
        for _ in range(nodes):
            ray_cluster.add_node(num_cpus=max(1, (os.cpu_count() or 1) // nodes), num_gpus=0)
        ray.init(
            address=ray_cluster.address,
            logging_level=logging.WARNING,
            runtime_env={"env_vars": {"PYTHONPATH": str(CHECKOUT)}},
        )
        yield
    finally:
        ray.shutdown()
        ray_cluster.shutdown()  # type: ignore[no-untyped-call]  # Ray's method has no types
