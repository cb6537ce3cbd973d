"""Each worker runs on one node, so what counts is how many fit on each."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.runtime.placement import check_gpus_each, described, num_fitting, num_placeable

ONE = {"CPU": 8.0, "GPU": 1.0}
TWO = {"CPU": 8.0, "GPU": 2.0}

nodes = st.lists(
    st.fixed_dictionaries(
        {"CPU": st.integers(0, 64).map(float), "GPU": st.integers(0, 8).map(float)}
    ),
    max_size=5,
)
gpu_needs = st.one_of(
    st.integers(1, 8).map(float), st.integers(1, 99).map(lambda hundredths: hundredths / 100)
)


@pytest.mark.parametrize(
    ("cluster", "worker", "count"),
    [
        ([ONE, ONE], {"GPU": 2}, 0),
        ([ONE] * 4, {"GPU": 0.6}, 4),
        ([TWO], {"GPU": 0.6}, 2),  # not three: no worker gets .4 of one GPU and .2 of another
        ([TWO, ONE], {"GPU": 0.5}, 6),
        ([TWO, ONE], {"GPU": 0.1}, 30),  # 1 / .1 is less than 10 in floating point
        ([TWO, TWO, ONE], {"GPU": 2}, 2),
        ([{"GPU": 2.0}], {"GPU": 1, "CPU": 1}, 0),
        ([{"CPU": 2.0}, {"CPU": 3.0}], {"CPU": 1.5}, 3),
        ([{"CPU": 0.3}], {"CPU": 0.1}, 3),
        ([], {"CPU": 1}, 0),
    ],
)
def test_workers_are_counted_on_each_node(
    cluster: list[dict[str, float]], worker: dict[str, float], count: int
) -> None:
    assert num_placeable(cluster, worker) == count


@given(nodes, gpu_needs, st.integers(0, 4))
def test_what_is_counted_can_be_placed_and_one_more_cannot(
    cluster: list[dict[str, float]], gpus: float, cpus: int
) -> None:
    """Place workers one after the other, each on the first GPU with room, as Ray does."""
    placed = 0
    for node in cluster:
        free, cpus_left = [1.0] * int(node["GPU"]), node["CPU"]
        while cpus_left >= cpus:
            if gpus >= 1:
                whole = [n for n, share in enumerate(free) if share == 1.0][: int(gpus)]
                if len(whole) < gpus:
                    break
                for n in whole:
                    free[n] = 0.0
            else:
                slot = next((n for n, s in enumerate(free) if round(s - gpus, 6) >= 0), None)
                if slot is None:
                    break
                free[slot] = round(free[slot] - gpus, 6)
            cpus_left -= cpus
            placed += 1
    assert num_placeable(cluster, {"GPU": gpus, "CPU": cpus}) == placed


@given(nodes, nodes, gpu_needs)
def test_nodes_are_counted_one_by_one_and_more_nodes_never_hold_fewer(
    some: list[dict[str, float]], others: list[dict[str, float]], gpus: float
) -> None:
    worker = {"GPU": gpus}
    assert num_placeable(some + others, worker) == sum(
        num_placeable(part, worker) for part in (some, others)
    )


def test_a_worker_that_needs_nothing_has_no_largest_number() -> None:
    with pytest.raises(ValueError, match="needs a resource"):
        num_fitting(ONE, {"GPU": 0.0})


def test_gpus_that_no_node_has_are_refused_in_one_line() -> None:
    check_gpus_each([ONE, TWO], 2)
    with pytest.raises(UserError) as caught:
        check_gpus_each([ONE, ONE], 2)
    assert str(caught.value) == (
        "--gpus-per-worker 2: no node has 2 GPUs: the largest has 1, and a worker runs on one node. Give at"
        " most 1, or start a node with 2 GPUs."
    )


@pytest.mark.parametrize(
    ("amounts", "words"),
    [
        ({"CPU": 1.0, "GPU": 2.0, "memory": 5e9}, "1 CPU and 2 GPUs"),
        ({"memory": 5e9}, "no CPUs"),
        ({"GPU": 0.6}, "0.6 GPUs"),
    ],
)
def test_amounts_are_described_in_words(amounts: dict[str, float], words: str) -> None:
    assert described(amounts) == words
