"""Asks a cluster that starts nodes for those that a job needs, and waits for the first.

    with Growth(joined=cluster.connect(), wait_s=900) as growth:
        gpus = growth.gpus_each(config.gpus_per_worker)
        growth.wait_for({"GPU": gpus}, count=4, enough=1)  # the job may begin
        ...  # the request stands until the end of the context

Without effect on a cluster that starts no nodes. A request is one for the whole cluster: Ray Data and Ray
Train replace it by theirs while they run, so it is sent again every `RENEW_S`. It is withdrawn at the end,
also after errors and signals, so that nodes without work go. After SIGKILL it stays until the same command,
or another job, has ended.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import cached_property
from types import TracebackType
from typing import Self

from ray.exceptions import RayError

from fastrcnn import __version__
from pipeline.errors import JobError, UserError
from pipeline.runtime import autoscaler, cluster, ending
from pipeline.runtime.autoscaler import Status
from pipeline.runtime.cluster_limits import most_resources
from pipeline.runtime.placement import Amounts, described, num_placeable, total

logger = logging.getLogger(__name__)

RENEW_S = 5.0
"""Seconds between two requests, and between two looks at the nodes. Ray's autoscaler looks every 5 s."""
STATUS_S = 10.0
"""Seconds between two questions to the autoscaler, and between two lines of progress."""
SETTLE_S = 15.0
"""Seconds after which the autoscaler has begun to start what it can start: three of its rounds."""


class Growth:
    """The nodes of a cluster, and the request for more of them.

    Args:
        joined: whether the cluster was joined. One that this process started has this machine only.
        wait_s: --wait-for-nodes.
    """

    def __init__(self, *, joined: bool, wait_s: float) -> None:
        self._joined, self._wait_s = joined, wait_s
        self._deadline: float | None = None
        self._bundles: Sequence[Amounts] | None = None
        self._asked = False
        self._seen: set[str] = set()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="growing", daemon=True)
        self._stack = ExitStack()
        self._nodes: list[dict[str, float]] = []

    def __enter__(self) -> Self:
        self._nodes = cluster.nodes()
        if self._joined:
            self._seen = cluster.node_ids()
            self._stack.enter_context(ending.at_end(self._withdraw))
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._joined:
            return
        self._closed.set()
        self._thread.join(RENEW_S)  # it may be waiting for an answer of Ray
        self._withdraw()
        self._stack.close()

    @cached_property
    def grows(self) -> bool:
        """Whether the cluster starts nodes when a job asks for them."""
        if not self._joined or self.limits is not None:
            return self._joined
        return autoscaler.starts_nodes(patient=not total(self._nodes, "CPU"))

    @cached_property
    def limits(self) -> Amounts | None:
        """The most CPUs and GPUs that the cluster can have. None: it is fixed, or does not tell."""
        return most_resources() if self._joined else None

    def num_placeable(self, worker: Amounts) -> int:
        """Return how many workers fit on the nodes that are there now, or were some seconds ago."""
        return num_placeable(self._nodes, worker)

    def most_placeable(self, worker: Amounts) -> int | None:
        """Return how many workers the cluster can have. None: it does not tell."""
        return None if self.limits is None else num_placeable([self.limits], worker)

    def gpus_each(self, given: float | None, count: int = 1) -> float:
        """Return the GPUs of a worker on a cluster that grows.

        A cluster that can have GPUs uses them, also if none is there yet. If it does not tell what it can
        have, it is asked for GPUs and for CPUs at the same time. Then GPUs are used if a GPU comes. CPUs are
        used if they are there, and the autoscaler starts nothing more.

        Args:
            given: --gpus-per-worker. If it is not None, it decides.
            count: the number of workers to ask for.

        Raises:
            JobError: no node came in time.
        """
        if given is not None:
            return given
        if self.limits is not None and total([*self._nodes, self.limits], "GPU") < 1:
            return 0.0
        if self.limits is not None or num_placeable(cluster.nodes(), {"GPU": 1}):
            return 1.0
        logger.info(
            "the cluster does not tell whether it can have GPUs, so it is asked for one."
            " --gpus-per-worker 0 or 1 saves this question"
        )
        self.ask([{"GPU": 1}] * count + [{"CPU": 1}] * count)
        since = time.monotonic()

        def is_settled(nodes: Sequence[Amounts], status: Status, asked: float) -> bool:
            if num_placeable(nodes, {"GPU": 1}):
                return True
            if total(nodes, "CPU") < 1 or asked < since + SETTLE_S:
                return False
            return not status.is_starting(cluster.node_names())

        self._wait("a GPU, or CPUs where there are no GPUs", is_settled)
        return 1.0 if num_placeable(cluster.nodes(), {"GPU": 1}) else 0.0

    def wait_for(self, worker: Amounts, *, count: int, enough: int) -> None:
        """Ask for nodes with room for `count` workers and one more CPU; wait until `enough` workers fit.

        Raises:
            UserError: the cluster can never have them, or a node has another version of this package.
            JobError: they did not come in time.
        """
        self._check_limits(worker, enough)
        self.ask([worker] * count + [{"CPU": 1}])

        def are_there(nodes: Sequence[Amounts], status: Status, asked: float) -> bool:
            return num_placeable(nodes, worker) >= enough and total(nodes, "CPU") > 0

        each = (
            f"{enough} workers with {described(worker)} each" if enough > 1 else described(worker)
        )
        self._wait(each, are_there)
        if not cluster.is_checkout():
            cluster.check_versions(cluster.node_versions(), __version__)
            self._seen = cluster.node_ids()

    def ask(self, bundles: Sequence[Amounts] | None) -> None:
        """Ask for nodes on which all bundles fit, until the end. None: leave it to Ray Data and Ray Train."""
        if not self.grows:
            return
        self._bundles = bundles
        self._asked = True
        autoscaler.request(bundles or [])

    def _check_limits(self, worker: Amounts, enough: int) -> None:
        if self.limits is None:
            return
        for name, flag in (("GPU", "--gpus-per-worker"), ("CPU", "--num-workers")):
            most, need = total([self.limits], name), worker.get(name, 0.0) * enough
            if need > max(most, total(cluster.nodes(), name)):
                raise UserError(
                    f"{flag} with {enough} worker(s)",
                    f"need {need:g} {name}s, and the cluster can have {most:g}",
                    "Give less, or allow more nodes in the configuration of the cluster.",
                )

    def _wait(
        self, what: str, is_ready: Callable[[Sequence[Amounts], Status, float], bool]
    ) -> None:
        """Wait until the nodes and the status, with the time of the question, are ready."""
        now = time.monotonic()
        self._deadline = self._deadline or now + self._wait_s
        status, asked, logged = Status(), 0.0, 0.0
        while not is_ready(nodes := cluster.nodes(), status, asked):
            if time.monotonic() >= self._deadline:
                raise JobError(
                    f"no node with {what} came within {self._wait_s:g} s (--wait-for-nodes). There:"
                    f" {_described(nodes)}; {status}. Check max_workers and the node types of the cluster,"
                    " the quota of the cloud, and `ray status -v`. Then run the same command again"
                )
            if time.monotonic() - asked >= STATUS_S:
                asked, status = time.monotonic(), autoscaler.status()
            if time.monotonic() - logged >= STATUS_S:
                logged = time.monotonic()
                logger.info(
                    "waiting for %s, %.0f s of at most %g s; there: %s; %s",
                    what,
                    logged - now,
                    self._wait_s,
                    _described(nodes),
                    status,
                )
            time.sleep(1)
        self._nodes = cluster.nodes()

    def _watch(self) -> None:
        """Send the request again, and look at the nodes that come."""
        while not self._closed.wait(RENEW_S):
            # Without its GCS, the job ends in the main thread.
            with suppress(RayError, RuntimeError, OSError):
                self._nodes = cluster.nodes()
                if self._bundles is not None:
                    autoscaler.request(self._bundles)
                self._check_new_nodes()

    def _check_new_nodes(self) -> None:
        new = cluster.node_ids() - self._seen
        self._seen |= new
        if not new or cluster.is_checkout():
            return
        try:
            cluster.check_versions(cluster.node_versions(new), __version__)
        except UserError as error:
            ending.end_job(1, f"failed: {error}")
        except JobError as error:
            logger.warning("%s", error)

    def _withdraw(self) -> None:
        self._bundles = None
        if not self._asked:
            return
        with suppress(RayError, RuntimeError, OSError):
            autoscaler.request([])


def _described(nodes: Sequence[Amounts]) -> str:
    kinds = sorted({described(node) for node in nodes})
    counts = [(sum(described(node) == kind for node in nodes), kind) for kind in kinds]
    return (
        ", ".join(f"{n} node{'s' if n > 1 else ''} with {kind}" for n, kind in counts) or "no node"
    )
