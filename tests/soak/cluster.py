"""A Ray cluster of several nodes on this machine, each of which can be shot."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import ray

from demo.processes import descendants, end, end_all, free_port

NODE_CPUS = 2
"""Logical ones: of the machine's cores there may be fewer."""
_OBJECT_STORE_BYTES = 150_000_000
_START_S = 300.0
KINDS = ("detector", "worker", "helper", "raylet", "gcs", "decoder")
"""A Detector actor; another process that takes tasks; an actor of Ray Data's or ours that takes no images;
a node's daemon; the head's control store; a process that decodes unusual images."""
SETTINGS = {
    # Or `ray start` obeys a token that it finds in the home folder.
    "RAY_AUTH_MODE": "disabled",
    # Another program's memory is none of this cluster's business.
    "RAY_memory_monitor_refresh_ms": "0",
    # A driver and a raylet wait so long for a GCS that is dead; 60 s by default.
    "RAY_gcs_rpc_server_reconnect_timeout_s": "20",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    "OMP_NUM_THREADS": "1",
}


class RunningCluster(Protocol):
    """What a round needs of a cluster."""

    address: str
    """For RAY_ADDRESS."""
    environment: dict[str, str]
    """The environment of its drivers."""
    enter: Sequence[str]
    """The command that starts a driver where its network is, such as ``ip netns exec NAME``. Empty: here."""

    def processes(self) -> dict[str, list[int]]:
        """Process ids by kind, see `KINDS`; of the raylets those that no driver is attached to."""

    def kill(self, pid: int) -> None:
        """SIGKILL one of them."""

    def repair(self) -> None:
        """Bring back what is dead."""


class Cluster:
    """A head and further nodes, each a `ray start --block` with its own address, ports and folder.

    Args:
        logs: a folder for what the nodes say.
        num_nodes: the head included.
        environment: of the nodes, and so of all workers.
        node_flags: of `ray start`, instead of what stands here.
        of_node: more environment of a node, by its number.
    """

    def __init__(
        self,
        logs: Path,
        num_nodes: int,
        environment: dict[str, str],
        node_flags: Sequence[str] = (),
        of_node: Callable[[int], dict[str, str]] = lambda number: {},
    ) -> None:
        self._logs = logs
        self._num_nodes = num_nodes
        self._node_flags = node_flags
        self._of_node = of_node
        self.environment = {**os.environ, **SETTINGS, **environment}
        self._nodes: list[subprocess.Popen[bytes]] = []
        self._folders: list[str] = []
        self._family: set[tuple[int, str]] = set()
        self._starts = 0
        self.address = ""
        self.enter = self._enter(0)

    def start(self) -> None:
        """Start every node, and wait until the cluster has them all."""
        # Not 127.0.0.1, which Ray replaces by the machine's address: each node has its own.
        self.address = f"{self._host(0)}:{free_port()}"
        self._nodes = [self._start_node(0)]
        self._wait()
        while len(self._nodes) < self._num_nodes:
            self._nodes.append(self._start_node(len(self._nodes)))
        self._wait()

    def repair(self) -> None:
        """Start anew whichever node is dead; where it is the head, the whole cluster."""
        if self._dead(0):
            self.close()
            self.start()
            return
        for number in range(1, len(self._nodes)):
            if self._dead(number):
                self._end_node(number)
                self._nodes[number] = self._start_node(number)

    def processes(self) -> dict[str, list[int]]:
        """See `RunningCluster`."""
        found = processes_below(*(node.pid for node in self._nodes))
        own = processes_below(self._nodes[0].pid)["raylet"]
        found["raylet"] = [pid for pid in found["raylet"] if pid not in own]
        return found

    def processes_of(self, number: int) -> dict[str, list[int]]:
        """Return the process ids of one node, by kind."""
        return processes_below(self._nodes[number].pid)

    def kill(self, pid: int) -> None:
        """See `RunningCluster`. What the process leaves behind is ended with the cluster."""
        self._family |= descendants(pid)
        kill(pid)

    def lose_node(self, number: int) -> None:
        """SIGKILL all processes of a node, as when its machine is lost."""
        node = self._nodes[number]
        family = descendants(node.pid)
        self._family |= family
        node.kill()
        for pid, _ in family:
            kill(pid)
        node.wait()

    def close(self) -> None:
        """End all its processes, orphans included, and remove its folders."""
        for number in reversed(range(len(self._nodes))):
            self._end_node(number)
        self._nodes = []
        end_all(self._family)
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)
        self._folders = []

    def _host(self, number: int) -> str:
        """Return the address of a node."""
        return f"127.0.0.{2 + number}"

    def _num_cpus(self, number: int) -> int:
        """Return the CPUs of a node. Only the number matters: the machine may have fewer."""
        return NODE_CPUS

    def _enter(self, number: int) -> Sequence[str]:
        """Return the command that starts a process where a node's network is."""
        return ()

    def _dead(self, number: int) -> bool:
        return self._nodes[number].poll() is not None

    def _end_node(self, number: int) -> None:
        self._family |= descendants(self._nodes[number].pid)
        end(self._nodes[number])

    def _start_node(self, number: int) -> subprocess.Popen[bytes]:
        folder = tempfile.mkdtemp(prefix="soak-", dir="/tmp")  # short: it holds sockets
        self._folders.append(folder)
        self._starts += 1
        own = ["--address", self.address]
        if number == 0:
            own = ["--head", "--port", self.address.rpartition(":")[2]]
            own += ["--ray-client-server-port", str(free_port())]
            own += ["--include-dashboard", "false", "--dashboard-port", str(free_port())]
        command = [*self._enter(number), str(Path(sys.executable).parent / "ray"), "start", *own]
        command += ["--block", "--disable-usage-stats", "--temp-dir", folder]
        command += ["--node-ip-address", self._host(number)]
        command += ["--dashboard-agent-listen-port", str(free_port())]
        command += ["--num-cpus", str(self._num_cpus(number))]
        command += ["--object-store-memory", str(_OBJECT_STORE_BYTES), *self._node_flags]
        with (self._logs / f"node-{number}-{self._starts}.log").open("wb") as log:
            return subprocess.Popen(
                command,
                env={**self.environment, **self._of_node(number)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _wait(self) -> None:
        """Until all nodes that were started live; asked by another process, for this may have a cluster."""
        ready = (
            "import ray, sys, time; ray.init(logging_level='ERROR', log_to_driver=False)\n"
            "while sum(n['Alive'] for n in ray.nodes()) < int(sys.argv[1]): time.sleep(.2)"
        )
        deadline = time.monotonic() + _START_S
        asked: subprocess.Popen[bytes] | None = None
        while asked is None or asked.poll() != 0:
            if asked is None or asked.poll() is not None:
                asked = subprocess.Popen(
                    [*self.enter, sys.executable, "-c", ready, str(len(self._nodes))],
                    env={**self.environment, "RAY_ADDRESS": self.address},
                    stderr=subprocess.DEVNULL,
                )
            time.sleep(0.3)
            if self._dead(0) or time.monotonic() > deadline:
                asked.kill()
                asked.wait()
                raise RuntimeError(f"no Ray cluster within {_START_S:g} s; see {self._logs}")
            self.repair()  # a node that found no head in time gives up


class SessionCluster:
    """The cluster of `conftest.ray_cluster`. Its only node must not be killed."""

    def __init__(self, endpoint: str) -> None:
        self.address = ray.get_runtime_context().gcs_address
        self.environment = {**os.environ, **SETTINGS, "AWS_ENDPOINT_URL": endpoint}
        self.enter = ()

    def processes(self) -> dict[str, list[int]]:
        return processes_below(os.getpid())

    def kill(self, pid: int) -> None:
        kill(pid)

    def repair(self) -> None:
        """Do nothing: Ray restarts every process that is killed here."""


def processes_below(*pids: int) -> dict[str, list[int]]:
    """Process ids by kind, see `KINDS`, of those that descend from some others."""
    found: dict[str, list[int]] = {kind: [] for kind in KINDS}
    for child, _ in set().union(*map(descendants, pids)):
        if kind := _kind(child):
            found[kind].append(child)
    return found


def kill(pid: int) -> None:
    """SIGKILL, be it gone or not."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _kind(pid: int) -> str | None:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except (FileNotFoundError, ProcessLookupError):
        return None
    program = command.split(" ")[0]
    if program.endswith("/gcs_server"):
        return "gcs"
    if program.endswith("/raylet"):
        return "raylet"
    if "pipeline.images.fence_child" in command:
        return "decoder"
    title = command.removeprefix("ray::")
    if title == command or title.startswith(("DashboardAgent", "RuntimeEnvAgent")):
        return None
    if title.startswith(("_", "ActorLocationTracker", "AttemptLog")):
        return "helper"
    return "detector" if "Detector" in title else "worker"
