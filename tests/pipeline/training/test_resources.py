"""Tests of worker resources: a worker gets all free CPUs, and never more than one node has."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.config import TrainConfig
from pipeline.errors import UserError
from pipeline.runtime.growing import Growth
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
        resources(**flags)


def resources(**flags: Any) -> dict[str, float]:
    config = TrainConfig(data="data", output="output", **flags)
    with Growth(joined=False, wait_s=0) as growth:
        return worker_resources(config, growth)


@pytest.fixture
def two_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two nodes of one GPU, and a head."""
    nodes = [{"CPU": 8.0, "GPU": 1.0}, {"CPU": 8.0, "GPU": 1.0}, {}]
    monkeypatch.setattr("pipeline.runtime.cluster.nodes", lambda: nodes)


@pytest.mark.usefixtures("two_nodes")
@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ({"gpus_per_worker": 2}, "no node has 2 GPUs: the largest has 1"),
        ({"num_workers": 4}, "--num-workers 4: need 4 GPUs, the cluster has 2"),
        ({"num_workers": 2, "gpus_per_worker": 0.5}, "would share a GPU, which NCCL refuses"),
        ({"num_workers": 4, "gpus_per_worker": 0.6}, "need 2.4 GPUs"),
    ],
)
def test_workers_that_no_node_has_room_for_are_refused(flags: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        resources(**flags)


@pytest.mark.usefixtures("two_nodes")
@pytest.mark.parametrize(
    ("flags", "gpus"),
    [
        ({"num_workers": 2}, 1),
        ({"num_workers": 2, "gpus_per_worker": 0.6}, 0.6),
        ({"num_workers": 1, "gpus_per_worker": 0.5}, 0.5),
        ({"num_workers": 8, "max_workers": 2}, 1),
        ({"num_workers": 4, "min_workers": 2}, 1),
    ],
)
def test_workers_that_fit_on_the_nodes_are_accepted(flags: dict[str, Any], gpus: float) -> None:
    assert resources(**flags) == {"CPU": 1, "GPU": gpus}
