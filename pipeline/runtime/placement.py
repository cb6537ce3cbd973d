"""Counts how many workers fit on the nodes of a cluster.

Ray places each worker on one node. A GPU is given whole, or in fractions of one GPU: two workers with .6 GPUs
do not share a GPU, and a worker with 2 GPUs needs a node that has two.

Legend: a node and a worker are amounts by resource name, such as {"CPU": 8, "GPU": 1}.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.errors import UserError

Amounts = Mapping[str, float]

_UNIT = 10_000
"""Ray counts in ten-thousandths."""


def num_fitting(node: Amounts, worker: Amounts) -> int:
    """Return how many workers fit on an empty node.

    Raises:
        ValueError: the worker needs no resource, so there is no largest number.
    """
    counts = [
        _shares(node.get(name, 0.0), need) if name == "GPU" else _units(node.get(name, 0.0), need)
        for name, need in worker.items()
        if need > 0
    ]
    if not counts:
        raise ValueError("expected a worker that needs a resource")
    return min(counts)


def num_placeable(nodes: Sequence[Amounts], worker: Amounts) -> int:
    """Return how many workers fit on all nodes together."""
    return sum(num_fitting(node, worker) for node in nodes)


def total(nodes: Sequence[Amounts], name: str) -> float:
    """Return how much of a resource all nodes have together."""
    return sum(node.get(name, 0.0) for node in nodes)


def largest(nodes: Sequence[Amounts], name: str) -> float:
    """Return how much of a resource the node with the most of it has."""
    return max((node.get(name, 0.0) for node in nodes), default=0.0)


def check_gpus_each(nodes: Sequence[Amounts], gpus: float) -> None:
    """Check that a node has the GPUs of one worker.

    Raises:
        UserError: no node has them.
    """
    most = largest(nodes, "GPU")
    if num_placeable(nodes, {"GPU": gpus}):
        return
    raise UserError(
        f"--gpus-per-worker {gpus:g}",
        f"no node has {_count(gpus)}: the largest has {most:g}, and a worker runs on one node",
        f"Give at most {most:g}, or start a node with {_count(gpus)}.",
    )


def described(amounts: Amounts) -> str:
    """Describe amounts in words: ``2 CPUs and 1 GPU``."""
    parts = [
        f"{amount:g} {name}{'' if amount == 1 else 's'}"
        for name, amount in sorted(amounts.items())
        if name in ("CPU", "GPU") and amount
    ]
    return " and ".join(parts) or "no CPUs"


def _count(gpus: float) -> str:
    return f"{gpus:g} GPU{'' if gpus == 1 else 's'}"


def _units(have: float, need: float) -> int:
    return round(have * _UNIT) // max(1, round(need * _UNIT))


def _shares(have: float, need: float) -> int:
    """Return how many workers the GPUs of a node are enough for."""
    if need >= 1:
        return _units(have, need)
    whole = int(have)
    return whole * _units(1, need) + _units(have - whole, need)
