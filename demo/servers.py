"""Start the two servers of the demo on this machine: an S3 server and a Ray cluster."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import boto3

from demo.processes import CommandError, background, free_port, wait_for_port


def use_demo_environment() -> None:
    """Set the environment variables of the demo; all its processes inherit them.

    Variables of the user's AWS account or Ray cluster are removed. The addresses of the servers are set
    later.
    """
    use_demo_credentials()
    _forget("RAY_")
    os.environ.update(
        # Ray listens on all network interfaces, and a submitted job can run any code. So a token is required.
        RAY_AUTH_MODE="token",
        RAY_AUTH_TOKEN=secrets.token_hex(32),
        RAY_USAGE_STATS_ENABLED="0",
        RAY_COLOR_PREFIX="0",
        RAY_OBJECT_STORE_ALLOW_SLOW_STORAGE="1",  # for containers with a small /dev/shm
        RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S="0",
        # The jobs must use this Python.
        PATH=os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", ""))),
    )


def use_demo_credentials() -> None:
    """Set only the S3 variables, for a process that has already imported Ray."""
    _forget("AWS_")
    os.environ.update(
        AWS_ACCESS_KEY_ID="demo",
        AWS_SECRET_ACCESS_KEY="demo",
        AWS_DEFAULT_REGION="us-east-1",
        AWS_CONFIG_FILE=os.devnull,
        AWS_SHARED_CREDENTIALS_FILE=os.devnull,
        AWS_EC2_METADATA_DISABLED="true",
    )
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = "127.0.0.1,localhost"


def _forget(prefix: str) -> None:
    """Remove all environment variables with this prefix."""
    for name in [name for name in os.environ if name.startswith(prefix)]:
        del os.environ[name]


@contextlib.contextmanager
def s3_server(logs: Path) -> Iterator[str]:
    """Run moto's S3 server, with objects in memory. Sets AWS_ENDPOINT_URL and gives its value."""
    port, log = free_port(), logs / "s3-server.log"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with background(command, log) as process:
        wait_for_port(port, process, log, 60)
        os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{port}"
        yield os.environ["AWS_ENDPOINT_URL"]


def create_bucket(name: str) -> None:
    """Create a bucket on the server of `s3_server`."""
    boto3.client("s3").create_bucket(Bucket=name)


@contextlib.contextmanager
def ray_cluster(logs: Path) -> Iterator[str]:
    """Run a Ray head with its dashboard on loopback, on free ports; give the URL of the dashboard.

    On a busy machine Ray's agent sometimes starts too late, or another process takes one of its ports. Then
    the head ends, and it is started once more on other ports.
    """
    with contextlib.ExitStack() as stack:
        try:
            url = stack.enter_context(_ray_head(logs / "ray.log"))
        except CommandError:
            url = stack.enter_context(_ray_head(logs / "ray-again.log"))
        yield url


@contextlib.contextmanager
def _ray_head(log: Path) -> Iterator[str]:
    port = free_port()
    # Some of Ray's actors look for the cluster of this machine, and there may be several.
    os.environ["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{port}"
    # In /tmp and not in $TMPDIR, because paths of Ray's sockets may have at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as temp:
        command = [
            "ray",
            "start",
            "--head",
            "--block",
            f"--temp-dir={temp}",
            "--disable-usage-stats",
            # At least two: one for the job, one for its worker.
            f"--num-cpus={max(2, os.cpu_count() or 1)}",
            "--object-store-memory=400000000",
            "--dashboard-host=127.0.0.1",
            f"--dashboard-port={port}",
            f"--port={free_port()}",
            f"--ray-client-server-port={free_port()}",
            f"--dashboard-agent-listen-port={free_port()}",
        ]
        with background(command, log) as process:
            wait_for_port(port, process, log, 120)
            _wait_for_node(f"http://127.0.0.1:{port}", log, 120)
            yield f"http://127.0.0.1:{port}"


def _wait_for_node(dashboard: str, log: Path, seconds: float) -> None:
    """Wait until the dashboard lists a living node. Before that, the head cannot run jobs."""
    request = urllib.request.Request(
        f"{dashboard}/nodes?view=summary",
        headers={"Authorization": f"Bearer {os.environ['RAY_AUTH_TOKEN']}"},
    )
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(urllib.error.URLError, TimeoutError, ConnectionError):
            with urllib.request.urlopen(request, timeout=5) as reply:
                nodes = json.load(reply)["data"]["summary"]
            if any(node["raylet"].get("state") == "ALIVE" for node in nodes):
                return
        time.sleep(0.3)
    raise CommandError(f"the Ray head has no living node after {seconds:g} s; see {log}")
