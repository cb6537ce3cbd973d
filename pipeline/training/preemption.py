"""Notice that a node of the run will be taken away soon."""

from __future__ import annotations

import logging

import ray.train

logger = logging.getLogger(__name__)

STEPS_BETWEEN_CHECKS = 10
"""Steps between two checks for a preemption notice. A check asks an actor and waits for all ranks. At every
step this would slow down a GPU."""


class PreemptionNotice:
    """Check whether a node of this run will be taken away soon (spot capacity, scale-down, maintenance).

    Then there is time to save one more checkpoint. All ranks ask at the same steps and get the same answer.
    When the node is gone, Ray restarts the run on other nodes from that checkpoint, any number of times.
    """

    def __init__(self) -> None:
        self._nodes: set[str] = set()

    def arrived(self, iteration: int) -> bool:
        """Return True if there is a notice about nodes that were not in an earlier notice."""
        if iteration % STEPS_BETWEEN_CHECKS:
            return False
        info = ray.train.get_preemption_info()
        new = set(info.preempted_node_ids) - self._nodes if info else set()
        self._nodes |= new
        if new:
            logger.warning(
                "iteration %d: %d nodes will be taken away soon; saving a checkpoint",
                iteration,
                len(new),
            )
        return bool(new)
