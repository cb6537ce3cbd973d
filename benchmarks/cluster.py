"""Ray clusters of several nodes on one machine, for `jobs/benchmark.py`."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from pipeline.runtime import cluster

CHECKOUT = Path(__file__).resolve().parents[1]


@contextlib.contextmanager
def cluster_of(nodes: int) -> Iterator[None]:
    """One for a run, ended after it: the next has the machine to itself. The job itself starts one of one
    node."""
    if nodes == 1:
        yield
        ray.shutdown()
        return
    cluster.set_random_token()
    several = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "num_gpus": 0})
    try:
        for _ in range(nodes):
            several.add_node(num_cpus=max(1, (os.cpu_count() or 1) // nodes), num_gpus=0)
        ray.init(
            address=several.address,
            logging_level=logging.WARNING,
            runtime_env={"env_vars": {"PYTHONPATH": str(CHECKOUT)}},
        )
        yield
    finally:
        ray.shutdown()
        several.shutdown()  # type: ignore[no-untyped-call]  # Ray's own
