"""Asks the autoscaler of a Ray cluster which nodes it has and starts, by the command ``ray status``.

A cluster that was put together by hand has an autoscaler too, which only reports. It calls the type of each
node `node_` and the id of the node. The autoscalers of ``ray up`` and of KubeRay use the names of the types
in their configuration.
"""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import ray
import ray.autoscaler.sdk

from pipeline.runtime.placement import Amounts

logger = logging.getLogger(__name__)

STATUS_TIMEOUT_S = 60.0
"""Time for one ``ray status``. It starts Python and imports Ray, which takes two seconds, or more on a busy
machine."""
FIRST_STATUS_S = 30.0
"""Time in which an autoscaler makes its first report."""
_COMMAND = "import sys; from ray.scripts.scripts import main; sys.argv[0] = 'ray'; main()"
_TYPE = re.compile(r"\s+\d+ (?P<type>\S.*)")
_BY_HAND = re.compile(r"node_[0-9a-f]{40,}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What an autoscaler reports."""

    is_known: bool = False
    """Whether there is a report. A cluster that has just begun has none."""
    types: frozenset[str] = frozenset()
    """The node types of the nodes that are there. A head without work may be left out."""
    pending: tuple[str, ...] = ()
    """Nodes that it starts, such as ``gpu, 1 launching``."""
    failures: tuple[str, ...] = ()
    """Nodes that it could not start, or that ended."""

    @property
    def starts_nodes(self) -> bool:
        """Whether it can start nodes. False for a cluster that was put together by hand."""
        # That lists at least its head.
        by_hand = self.types and all(map(_BY_HAND.fullmatch, self.types))
        return self.is_known and not by_hand

    def is_starting(self, present: Collection[str]) -> bool:
        """Return whether nodes may still come that it was asked for.

        A failure counts if no node of its type is there: it may be the only type with GPUs.

        Args:
            present: ids and addresses of the nodes that are there. Some autoscalers go on calling them
                pending.
        """
        awaited = [node for node in self.pending if node.rpartition(":")[0] not in present]
        return bool(awaited) or any(
            "NodeTerminated" not in failure and failure.split(":")[0] not in self.types
            for failure in self.failures
        )

    def __str__(self) -> str:
        if not (self.pending or self.failures):
            return "the autoscaler starts no node"
        parts = [*self.pending, *(f"failed: {failure}" for failure in self.failures)]
        return f"the autoscaler reports {'; '.join(parts)}"


def parse_status(text: str) -> Status:
    """Read the output of ``ray status``."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if not line.startswith(" "):
            lines = found.setdefault(line.strip().rstrip(":"), [])
        elif line.strip() and not line.strip().startswith("(no "):
            lines.append(line)
    named = [_TYPE.fullmatch(line) for part in ("Active", "Idle") for line in found.get(part, ())]
    return Status(
        is_known="Node status" in found,
        types=frozenset(match["type"].strip() for match in named if match),
        pending=tuple(line.strip() for line in found.get("Pending", ())),
        failures=tuple(line.strip() for line in found.get("Recent failures", ())),
    )


def status() -> Status:
    """Ask the autoscaler of the cluster that this process has joined. Empty if it does not answer in time."""
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-c", _COMMAND, "status", "--address", address]
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=STATUS_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        logger.warning("`ray status` did not answer within %g s", STATUS_TIMEOUT_S)
        return Status()
    if done.returncode:
        logger.warning("`ray status` failed: %s", (done.stderr.strip().splitlines() or ["?"])[-1])
    return parse_status(done.stdout)


def starts_nodes(*, patient: bool) -> bool:
    """Return whether the autoscaler of this cluster can start nodes.

    Args:
        patient: ask again for `FIRST_STATUS_S`, because a cluster that has just begun has no report yet.
    """
    deadline = time.monotonic() + (FIRST_STATUS_S if patient else 0)
    while not (found := status()).is_known and time.monotonic() < deadline:
        time.sleep(1)
    return found.starts_nodes


def request(bundles: Sequence[Amounts]) -> None:
    """Ask for nodes on which all bundles fit at the same time. This replaces the request before."""
    wanted = [{name: amount for name, amount in one.items() if amount} for one in bundles]
    ray.autoscaler.sdk.request_resources(bundles=wanted)
