"""The one private call of Ray is where it was, and answers as before."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
import ray
from ray.core.generated import autoscaler_pb2

from pipeline.runtime import cluster_limits
from pipeline.runtime.cluster_limits import most_resources

CHECKOUT = Path(__file__).resolve().parents[3]


@pytest.mark.usefixtures("ray_cluster")
def test_a_fixed_cluster_tells_no_limits() -> None:
    assert most_resources() is None


def test_node_types_are_added_up_by_the_function_that_ray_train_uses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three nodes of 16 CPUs and two of 8 CPUs with a GPU."""
    groups = [
        autoscaler_pb2.NodeGroupConfig(resources={"CPU": 16}, max_count=3, name="cpu"),
        autoscaler_pb2.NodeGroupConfig(resources={"CPU": 8, "GPU": 1}, max_count=2, name="gpu"),
    ]
    config = autoscaler_pb2.ClusterConfig(node_group_configs=groups)
    monkeypatch.setattr(cluster_limits._state, "get_cluster_config", lambda: config)
    assert most_resources() == {"CPU": 64.0, "GPU": 2.0}


def test_ray_train_still_uses_the_call() -> None:
    """If Ray moves it, look for the new place, or for a public call."""
    train = Path(ray.__file__).parent / "train" / "v2" / "_internal" / "execution"
    uses = [
        p for p in train.rglob("*.py") if "get_max_resources_from_cluster_config" in p.read_text()
    ]
    assert uses
    assert not inspect.signature(
        cluster_limits._state.get_max_resources_from_cluster_config
    ).parameters


def test_no_other_module_uses_private_calls_of_ray() -> None:
    private = re.compile(r"^\s*(from|import) ray\._|ray\._private\.state", re.M)
    files = [p for p in (CHECKOUT / "pipeline").rglob("*.py") if private.search(p.read_text())]
    assert [p.name for p in files] == ["cluster_limits.py"]
