"""A node that will be taken away says so a little before: time for one more checkpoint."""

from __future__ import annotations

import logging

import ray.train

logger = logging.getLogger(__name__)

STEPS_BETWEEN_LOOKS = 10
"""A look asks an actor and waits for every rank: at every step a GPU would feel it."""


class PreemptionNotice:
    """Whether a node of this run is being drained: spot capacity reclaimed, a scale-down, a maintenance.

    Every rank asks at the same steps and gets the same answer. When the node goes, Ray starts the run again
    elsewhere, from that checkpoint; how often is not limited.
    """

    def __init__(self) -> None:
        self._nodes: set[str] = set()

    def came(self, iteration: int) -> bool:
        """Whether there is a notice of nodes that no earlier one named."""
        if iteration % STEPS_BETWEEN_LOOKS:
            return False
        info = ray.train.get_preemption_info()
        new = set(info.preempted_node_ids) - self._nodes if info else set()
        self._nodes |= new
        if new:
            logger.warning("iteration %d: nodes are about to go, saving", iteration)
        return bool(new)
