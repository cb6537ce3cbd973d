"""The workers' process group goes over the network of the nodes."""

from __future__ import annotations

import socket

import pytest

from pipeline.training import process_group
from pipeline.training.process_group import NodeTorchConfig, interface_of, name_interface


def test_an_interface_is_found_by_its_address() -> None:
    loopback = interface_of("127.0.0.1")
    assert loopback in {name for _, name in socket.if_nameindex()}
    assert interface_of("203.0.113.9") is None


def test_a_worker_names_the_interface_of_its_node_unless_the_user_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")
    monkeypatch.setattr(process_group.cluster, "this_node", lambda: "127.0.0.1")
    name_interface()
    assert process_group.os.environ["GLOO_SOCKET_IFNAME"] == "eth7"
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    name_interface()
    assert process_group.os.environ["GLOO_SOCKET_IFNAME"] == interface_of("127.0.0.1")
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    monkeypatch.setattr(process_group.cluster, "this_node", lambda: "203.0.113.9")
    name_interface()
    assert "GLOO_SOCKET_IFNAME" not in process_group.os.environ


def test_each_worker_names_its_interface_before_the_group_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[object] = []
    backend = NodeTorchConfig().backend_cls

    class Workers:
        def execute(self, function: object) -> None:
            calls.append(function)

    monkeypatch.setattr(backend.__base__, "on_start", lambda *_: calls.append("start"))
    backend().on_start(Workers(), NodeTorchConfig())
    assert calls == [name_interface, "start"]
