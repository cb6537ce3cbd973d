"""A Ray cluster on this machine whose autoscaler starts nodes: each "node" is a separate raylet.

Ray's `AutoscalingCluster` is not used, because it runs ``ray stop --force``, which ends every Ray of the
machine. This one has its own ports and folders, and is ended by the ids of its processes.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import ray
import ray.util

from tests.conftest import CHECKOUT

HEAD_ID = "f" * 51 + "00000"
PROVIDER = "tests.late_nodes.LateNodes"
START_S = 300.0
"""Time for the head to start, in as many tries as fit."""
HEAD_ONLY = ("RAY_CLOUD_INSTANCE_ID", "RAY_OVERRIDE_NODE_ID_FOR_TESTING")
"""Variables of the head, which jobs must not have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Autoscaled:
    """A running cluster."""

    address: str
    folder: str
    environment: Mapping[str, str]
    """The environment in which jobs find it."""

    def node_pids(self) -> dict[str, int]:
        """Return the raylets of the nodes that the autoscaler started, by node id."""
        found = {}
        for pid, command in processes():
            if "/raylet" not in command or self.folder not in command:
                continue
            variables = Path(f"/proc/{pid}/environ").read_text(errors="replace").split("\0")
            for variable in variables:
                name, _, value = variable.partition("=")
                if name == "RAY_OVERRIDE_NODE_ID_FOR_TESTING" and value != HEAD_ID:
                    found[value] = pid
        return found

    def run(self, *command: object, timeout_s: float = 400) -> subprocess.CompletedProcess[str]:
        """Run Python with these arguments in the checkout."""
        return subprocess.run(
            [sys.executable, *map(str, command)],
            env=dict(self.environment),
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
        )


@contextmanager
def autoscaled(
    types: Mapping[str, Mapping[str, float]],
    *,
    most: int = 2,
    idle_minutes: float = 1,
    gpus_after_s: float = 0,
) -> Iterator[Autoscaled]:
    """Start a head without CPUs.

    Args:
        types: the resources of a node of each type. None is there at first.
        most: the largest number of nodes of each type.
        idle_minutes: time after which a node without work goes.
        gpus_after_s: time that a node with GPUs needs to start.
    """
    # The path is short, because paths of sockets may have at most 107 bytes.
    folder = tempfile.mkdtemp(prefix="a", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
    # Ray replaces the loopback address by this one.
    address = f"{ray.util.get_node_ip_address()}:{_free_port()}"  # type: ignore[no-untyped-call]
    file = Path(folder) / "autoscaling.json"
    file.write_text(
        json.dumps(_configuration(types, most, idle_minutes, address, gpus_after_s, folder))
    )
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "RAY_AUTH_MODE": "disabled",
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "AUTOSCALER_HEARTBEAT_TIMEOUT_S": "60",
        "RAY_enable_autoscaler_v2": "0",
        "RAY_memory_monitor_refresh_ms": "0",
        "RAY_TMPDIR": folder,
        # A busy machine needs more than the defaults of 15 s and 60 s.
        "RAY_agent_register_timeout_ms": "120000",
        "RAY_worker_register_timeout_seconds": "300",
        "OMP_NUM_THREADS": "1",
    }
    head = environment | dict.fromkeys(HEAD_ONLY, HEAD_ID) | {"PYTHONPATH": str(CHECKOUT)}
    start = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--num-cpus=0"]
    start += [f"--port={address.rpartition(':')[2]}"]
    start += [f"--autoscaling-config={file}", f"--temp-dir={folder}", "--include-dashboard=false"]
    start += [f"--dashboard-port={_free_port()}"]
    start += ["--object-store-memory=80000000", "--disable-usage-stats"]
    log = Path(folder) / "log"
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        process = _started(start, head, log)
        stack.callback(end, process, folder, address)
        yield Autoscaled(
            address=address, folder=folder, environment=environment | {"RAY_ADDRESS": address}
        )


def end(process: subprocess.Popen[bytes], *marks: str) -> None:
    """Kill a process and all others whose command line has one of the marks."""
    for _ in range(20):
        pids = {pid for pid, command in processes() if any(mark in command for mark in marks)}
        pids -= {os.getpid()}
        if process.poll() is None:
            pids.add(process.pid)
        if not pids:
            return
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.3)


def _configuration(
    types: Mapping[str, Mapping[str, float]],
    most: int,
    idle_minutes: float,
    address: str,
    gpus_after_s: float,
    folder: str,
) -> dict[str, object]:
    workers = {
        name: {
            "resources": dict(resources) | {"object_store_memory": 80_000_000},
            "node_config": {},
            "min_workers": 0,
            "max_workers": most,
        }
        for name, resources in types.items()
    }
    head = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
    commands = ("initialization_commands", "setup_commands", "head_setup_commands")
    commands += ("worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands")
    return {
        "cluster_name": "small",
        "max_workers": most * len(types),
        "idle_timeout_minutes": idle_minutes,
        "upscaling_speed": 1.0,
        "provider": {
            "type": "external",
            "module": PROVIDER,
            "head_node_id": HEAD_ID,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "worker_liveness_check": True,
            # Else all nodes would be one for the autoscaler: they have one address.
            "use_node_id_as_ip": True,
            "gcs_address": address,
            "gpus_after_s": gpus_after_s,
            "folder": folder,
        },
        "auth": {"ssh_user": "nobody"},
        "head_node_type": "ray.head.default",
        "available_node_types": {"ray.head.default": head, **workers},
        **{name: list[str]() for name in commands},
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
    }


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _started(
    command: list[str], environment: Mapping[str, str], log: Path
) -> subprocess.Popen[bytes]:
    """Start Ray. On a busy machine, its raylet misses Ray's fixed limits, so that it is tried again."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        with log.open("wb") as file:
            process = subprocess.Popen(
                command,
                env=dict(environment),
                cwd=CHECKOUT,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        while process.poll() is None and time.monotonic() < deadline:
            if "Ray runtime started" in log.read_text(errors="replace"):
                return process
            time.sleep(0.3)
        end(process, str(log.parent))
    raise AssertionError(f"Ray did not start: {log.read_text(errors='replace')}")


def processes() -> Iterator[tuple[int, str]]:
    """Give the id and the command line of every running process."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            yield int(path.parent.name), path.read_text(errors="replace").replace("\0", " ")
