"""Detectors and reads share the nodes so that both always run."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import ScoreConfig
from pipeline.errors import UserError
from pipeline.runtime.placement import num_placeable
from pipeline.scoring.resources import size_cluster

ONE = {"CPU": 8.0, "GPU": 1.0}


def changed(**flags: object) -> ScoreConfig:
    return ScoreConfig(images="a", checkpoint="b", output="c", **flags)  # type: ignore[arg-type]


@pytest.mark.parametrize("gpus", [0, 1, 2, 8])
@pytest.mark.parametrize("cpus", [1, 2, 3, 4, 8, 64])
@pytest.mark.parametrize("asked", [None, 1, 4, 100])
def test_a_read_always_has_cpus_left_beside_all_detectors(
    cpus: int, gpus: int, asked: int | None
) -> None:
    cluster = {"CPU": float(cpus), "GPU": float(gpus)}
    found = size_cluster(changed(num_workers=asked), [cluster])
    assert found.workers >= 1
    assert found.workers * found.detector_cpus + found.read_cpus <= cpus
    assert found.workers * found.detector_gpus <= gpus
    assert found.workers <= (asked or 100)
    assert found.detector_cpus != found.read_cpus  # else Ray Data fuses the stages


@pytest.mark.parametrize(
    "nodes", [(1.0, 1.0), (1.0,) * 3, (2.0, 2.0), (2.0, 1.0), (3.0, 0.0), (4.0, 4.0)]
)
@pytest.mark.parametrize("asked", [None, 1, 2])
def test_a_read_has_cpus_left_on_a_node_that_is_full_of_detectors(
    nodes: tuple[float, ...], asked: int | None
) -> None:
    found = size_cluster(changed(num_workers=asked), [{"CPU": cpus} for cpus in nodes])
    assert 1 <= found.workers <= (asked or 100)
    counts = (range(int(cpus / found.detector_cpus) + 1) for cpus in nodes)
    placed = [each for each in itertools.product(*counts) if sum(each) == found.workers]
    assert placed
    for each in placed:  # wherever Ray puts the Detectors
        free = [cpus - n * found.detector_cpus for cpus, n in zip(nodes, each, strict=True)]
        assert max(free) >= found.read_cpus


def test_small_nodes_hold_a_detector_each() -> None:
    found = size_cluster(changed(), [{}, {"CPU": 1.0}, {"CPU": 1.0}])
    assert (found.workers, found.detector_cpus, found.read_cpus) == (2, 0.5, 0.45)
    whole = size_cluster(changed(), [{"CPU": 2.0}])
    assert (whole.workers, whole.detector_cpus) == (2, 0.75)


def test_gpus_are_used_where_there_are_any() -> None:
    cluster = {"CPU": 8.0, "GPU": 2.0}
    assert size_cluster(changed(), [cluster]).detector_gpus == 1.0
    half = size_cluster(changed(gpus_per_worker=0.5), [cluster])
    assert (half.workers, half.detector_gpus) == (4, 0.5)
    assert size_cluster(changed(gpus_per_worker=0.0), [cluster]).detector_gpus == 0.0


def test_more_gpus_than_the_cluster_has_are_refused() -> None:
    with pytest.raises(UserError, match="the cluster has 0 GPUs"):
        size_cluster(changed(gpus_per_worker=1.0), [{"CPU": 8.0}])
    with pytest.raises(UserError, match="no CPU"):
        size_cluster(changed(), [{}])


def test_detectors_that_decode_get_the_cpus_of_their_node() -> None:
    node = {"CPU": 16.0, "GPU": 2.0}
    found = size_cluster(changed(), [node], detectors_decode=True)
    assert (found.detector_cpus, found.decode_threads, found.detector_threads) == (7.0, 7, 1)
    large = size_cluster(changed(), [{"CPU": 64.0, "GPU": 1.0}], detectors_decode=True)
    assert large.detector_cpus == 8.0
    small = size_cluster(changed(), [{"CPU": 1.0, "GPU": 1.0}], detectors_decode=True)
    assert (small.detector_cpus, small.decode_threads) == (0.5, 1)
    assert size_cluster(changed(), [node]).detector_cpus == 0.5
    on_cpus = size_cluster(changed(gpus_per_worker=0.0), [node], detectors_decode=True)
    assert (on_cpus.decode_threads, on_cpus.detector_threads) == (1, 1)


def test_two_gpus_for_each_detector_are_refused_on_nodes_of_one() -> None:
    with pytest.raises(UserError, match="no node has 2 GPUs: the largest has 1"):
        size_cluster(changed(gpus_per_worker=2.0), [ONE, ONE])


@pytest.mark.parametrize(("gpus", "workers"), [(None, 4), (1.0, 4), (0.6, 4), (0.5, 8)])
def test_detectors_are_counted_on_each_node(gpus: float | None, workers: int) -> None:
    assert size_cluster(changed(gpus_per_worker=gpus), [ONE] * 4).workers == workers


def test_max_workers_bounds_the_detectors() -> None:
    assert size_cluster(changed(max_workers=3), [ONE] * 4).workers == 3
    assert size_cluster(changed(max_workers=3, num_workers=2), [ONE] * 4).workers == 2


amounts = st.fixed_dictionaries({"CPU": st.integers(1, 32), "GPU": st.integers(0, 4)})


@given(
    st.lists(amounts, min_size=1, max_size=4), st.sampled_from([0.25, 0.6, 1.0, 2.0]), st.booleans()
)
def test_a_read_fits_beside_the_detectors_wherever_they_are(
    nodes: list[dict[str, float]], gpus: float, detectors_decode: bool
) -> None:
    if not num_placeable(nodes, {"GPU": gpus}):
        return
    found = size_cluster(changed(gpus_per_worker=gpus), nodes, detectors_decode=detectors_decode)
    assert found.workers == num_placeable(nodes, found.worker)
    held = [num_placeable([node], {"GPU": gpus}) for node in nodes]
    free = [node["CPU"] - n * found.detector_cpus for node, n in zip(nodes, held, strict=True)]
    assert max(free) >= found.read_cpus > 0
