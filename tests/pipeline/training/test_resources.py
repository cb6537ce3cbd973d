"""Tests of worker resources: a worker gets all free CPUs, and never more than one node has."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.config import TrainConfig
from pipeline.errors import UserError
from pipeline.training.resources import cpus_each, worker_resources


@pytest.mark.parametrize(
    ("nodes", "num_workers", "cpus"),
    [
        ([2], 1, 2),
        ([2, 2], 1, 2),
        ([2, 2], 2, 2),
        ([2, 2], 3, 1),
        ([2, 2], 5, 0),
        ([0, 8, 3], 2, 4),  # a head node without CPUs; both workers on the second node
        ([0, 8, 3], 3, 3),
        ([], 1, 0),
    ],
)
def test_a_worker_gets_as_many_cpus_as_fit_on_its_node(
    nodes: list[float], num_workers: int, cpus: int
) -> None:
    assert cpus_each(nodes, num_workers) == cpus


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(
    ("flags", "reason"),
    [({"num_workers": 4}, "one CPU each"), ({"gpus_per_worker": 1}, "1 GPUs, the cluster has 0")],
)
def test_more_workers_than_the_cluster_can_run_are_refused(
    flags: dict[str, Any], reason: str
) -> None:
    with pytest.raises(UserError, match=reason):
        worker_resources(TrainConfig(data="data", output="output", **flags))
