"""Several hosts on this machine: network namespaces with separate addresses, joined by a bridge.

    head (no CPUs, the drivers) ---+
    worker 1 (2 CPUs) -------------+--- bridge, in a separate namespace
    worker 2 (2 CPUs) -------------+
    S3 server ---------------------+

The network of this machine is not touched. The hosts share its files, its memory and its clock; each has a
temporary folder of its own. To make namespaces, the tests need root (CAP_SYS_ADMIN and CAP_NET_ADMIN) and
the command `ip`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import boto3
from moto.server import ThreadedMotoServer

from tests.conftest import save_tiny_checkpoint
from tests.fault_proxy import FaultyProxy, serving
from tests.soak.cluster import Cluster
from tests.soak.site import Site, node_key

_NETWORK = "10.77.0"
S3 = 2
"""The host of the S3 server."""
_FIRST_NODE = 10
NUM_WORKERS = 2
_CLONE_NEWNET = 0x40000000  # linux/sched.h


class Network:
    """The namespaces, as a context. Hosts have numbers, which are the last byte of their addresses."""

    def __init__(self, hosts: Sequence[int]) -> None:
        self._hosts = hosts
        self._prefix = f"soak{os.getpid()}"
        self._made: list[str] = []

    def __enter__(self) -> Network:
        with contextlib.ExitStack() as stack:
            stack.callback(self.__exit__)
            hub = self._make("hub")
            _ip("-n", hub, "link", "add", "bridge", "type", "bridge")
            _ip("-n", hub, "addr", "add", f"{_NETWORK}.1/24", "dev", "bridge")
            _ip("-n", hub, "link", "set", "bridge", "up")
            for host in self._hosts:
                self._join(hub, host)
            stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        while self._made:
            _ip("netns", "del", self._made.pop())

    def enter(self, host: int) -> tuple[str, ...]:
        """Return the command that starts a process on a host."""
        return ("ip", "netns", "exec", self._name(str(host)))

    def pull_cable(self, host: int) -> None:
        """Cut a host off. It keeps its address."""
        _ip("-n", self._name("hub"), "link", "set", f"v{host}", "down")

    def plug_cable(self, host: int) -> None:
        """Join a host again."""
        _ip("-n", self._name("hub"), "link", "set", f"v{host}", "up")

    def lose(self, host: int, other: int) -> None:
        """Drop what a host sends to another one, without an answer."""
        _ip("-n", self._name(str(host)), "route", "add", "blackhole", f"{address(other)}/32")

    def find(self, host: int, other: int) -> None:
        """End `lose`."""
        _ip("-n", self._name(str(host)), "route", "del", "blackhole", f"{address(other)}/32")

    @contextlib.contextmanager
    def inside(self, host: int) -> Iterator[None]:
        """Open sockets on a host. They stay there after the context; only this thread is concerned."""
        with open(f"/proc/self/task/{threading.get_native_id()}/ns/net") as here:
            with open(f"/run/netns/{self._name(str(host))}") as there:
                _set_namespace(there.fileno())
            try:
                yield
            finally:
                _set_namespace(here.fileno())

    def _join(self, hub: str, host: int) -> None:
        name, end = self._make(str(host)), f"v{host}"
        link = ("link", "add", end, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("-n", hub, *link)
        _ip("-n", hub, "link", "set", end, "master", "bridge", "up")
        _ip("-n", name, "addr", "add", f"{address(host)}/24", "dev", "eth0")
        _ip("-n", name, "link", "set", "eth0", "up")
        # Programs find the address of their host by the route to the internet.
        _ip("-n", name, "route", "add", "default", "via", f"{_NETWORK}.1")

    def _name(self, part: str) -> str:
        return f"{self._prefix}-{part}"

    def _make(self, part: str) -> str:
        name = self._name(part)
        _ip("netns", "add", name)
        self._made.append(name)
        _ip("-n", name, "link", "set", "lo", "up")
        return name


def address(host: int) -> str:
    """Return the address of a host."""
    return f"{_NETWORK}.{host}"


def worker_host(number: int) -> int:
    """Return the host of a node. The head is node 0."""
    return _FIRST_NODE + number


def why_not() -> str | None:
    """Return why namespaces cannot be made here. None: they can."""
    if not shutil.which("ip"):
        return "the command `ip` (iproute2) is not installed"
    try:
        with Network([S3]):
            return None
    except (subprocess.CalledProcessError, OSError) as error:
        return f"network namespaces need root: {getattr(error, 'stderr', error)}".strip()


class HostCluster(Cluster):
    """A head without CPUs and workers with two CPUs each, every one on its host. It requires a token."""

    def __init__(
        self,
        logs: Path,
        network: Network,
        environment: dict[str, str],
        of_node: Callable[[int], dict[str, str]],
    ) -> None:
        self._network = network
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        busy = {
            # A busy machine needs more than the defaults of 15 s and 60 s.
            "RAY_agent_register_timeout_ms": "120000",
            "RAY_worker_register_timeout_seconds": "300",
        }
        super().__init__(logs, 1 + NUM_WORKERS, {**token, **busy, **environment}, of_node=of_node)

    def raylet(self, number: int) -> int:
        """Return the process id of a node's raylet."""
        (pid,) = self.processes_of(number)["raylet"]
        return pid

    def _host(self, number: int) -> str:
        return address(worker_host(number))

    def _num_cpus(self, number: int) -> int:
        return 2 if number else 0

    def _enter(self, number: int) -> Sequence[str]:
        return self._network.enter(worker_host(number))


@contextlib.contextmanager
def open_hosts(logs: Path) -> Iterator[tuple[Site, Network, HostCluster]]:
    """Start everything. At the end, nothing is left: no process, no namespace."""
    nodes = range(1 + NUM_WORKERS)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    client = _client(f"http://{host}:{port}")
    client.create_bucket(Bucket="soak")
    try:
        with Network([S3, *map(worker_host, nodes)]) as network:
            # The proxy listens on the host of S3. It reaches the server on this machine.
            with network.inside(S3):
                proxy = FaultyProxy(f"http://{host}:{port}", host=address(S3))
            with serving(proxy):
                yield from _with_cluster(logs, network, proxy, client)
    finally:
        server.stop()


def _with_cluster(
    logs: Path, network: Network, proxy: FaultyProxy, client: Any
) -> Iterator[tuple[Site, Network, HostCluster]]:
    checkpoint = save_tiny_checkpoint(logs / "checkpoint")
    for file in checkpoint.iterdir():
        client.put_object(Bucket="soak", Key=f"checkpoint/{file.name}", Body=file.read_bytes())
    environment = {
        "AWS_ENDPOINT_URL": proxy.url,
        "AWS_ACCESS_KEY_ID": "soak",
        "AWS_SECRET_ACCESS_KEY": "soak",
        "AWS_DEFAULT_REGION": "us-east-1",
    }

    def of_node(number: int) -> dict[str, str]:
        folder = logs / f"tmp-{number}"
        folder.mkdir(exist_ok=True)
        return {"AWS_ACCESS_KEY_ID": node_key(number), "TMPDIR": str(folder)}

    cluster = HostCluster(logs, network, environment, of_node)
    try:
        cluster.start()
        site = Site(
            client=client,
            proxy=proxy,
            cluster=cluster,
            bucket="soak",
            checkpoint="s3://soak/checkpoint",
            logs=logs,
        )
        yield site, network, cluster
    finally:
        cluster.close()


def _client(url: str) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="soak",
        aws_secret_access_key="soak",
    )


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def _set_namespace(descriptor: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.setns(descriptor, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
