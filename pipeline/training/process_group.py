"""The process group of the training workers, over the network that joins the nodes.

gloo, which adds the gradients on CPUs, takes the address that the host's name stands for. In /etc/hosts of
Debian and Ubuntu that is 127.0.1.1, where other hosts find nothing ("Connection refused"). So each worker
names the interface that has the node's address in Ray. NCCL chooses by itself, and never the loopback.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from dataclasses import dataclass
from typing import Any

from ray.train.torch import TorchConfig

from pipeline.runtime import cluster

_VARIABLE = "GLOO_SOCKET_IFNAME"
_SIOCGIFADDR = 0x8915
"""Linux: asks for the IPv4 address of an interface (linux/sockios.h)."""


@dataclass
class NodeTorchConfig(TorchConfig):
    """Ray Train's settings of torch, with the interface of each node."""

    @property
    def backend_cls(self) -> Any:
        """The class that starts the process group."""
        return _NodeBackend


_Backend: Any = TorchConfig().backend_cls


class _NodeBackend(_Backend):  # type: ignore[misc]  # its base class is private to Ray
    """Starts the process group when each worker has named its interface."""

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        """See `ray.train.backend.Backend`."""
        worker_group.execute(name_interface)
        super().on_start(worker_group, backend_config)


def name_interface() -> None:
    """Set GLOO_SOCKET_IFNAME of this process, unless it is set or no interface has the node's address."""
    name = interface_of(cluster.this_node())
    if name is not None:
        os.environ.setdefault(_VARIABLE, name)


def interface_of(address: str) -> str | None:
    """Return the name of the interface that has an IPv4 address; None if none has it, or not on Linux."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode())
            try:
                answer = fcntl.ioctl(sock, _SIOCGIFADDR, request)
            except OSError:  # it has no IPv4 address, or this is not Linux
                continue
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return None
