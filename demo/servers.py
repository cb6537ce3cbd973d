"""The two servers of the demo, on this machine only: an S3 store and a Ray cluster."""

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


def own_environment() -> None:
    """Change this process' environment, which every other one inherits, to that of the demo.

    Nothing of a person's own AWS account or Ray cluster stays; the servers' addresses come later.
    """
    own_store()
    _forget("RAY_")
    os.environ.update(
        # Ray listens on every interface, and who may submit a job may run anything: ask for a token.
        RAY_AUTH_MODE="token",
        RAY_AUTH_TOKEN=secrets.token_hex(32),
        RAY_USAGE_STATS_ENABLED="0",
        RAY_COLOR_PREFIX="0",
        RAY_OBJECT_STORE_ALLOW_SLOW_STORAGE="1",  # containers with a small /dev/shm
        RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S="0",
        # The job's `python` is to be this one.
        PATH=os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", ""))),
    )


def own_store() -> None:
    """The part of `own_environment` that is of S3: of a process that has Ray loaded Ray's stays as it is."""
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
    for name in [name for name in os.environ if name.startswith(prefix)]:
        del os.environ[name]


@contextlib.contextmanager
def s3_server(logs: Path) -> Iterator[str]:
    """moto's S3 server, its objects in its memory; gives the endpoint, which it also exports."""
    port, log = free_port(), logs / "s3-server.log"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with background(command, log) as process:
        wait_for_port(port, process, log, 60)
        os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{port}"
        yield os.environ["AWS_ENDPOINT_URL"]


def create_bucket(name: str) -> None:
    """Make a bucket in the server of `s3_server`."""
    boto3.client("s3").create_bucket(Bucket=name)


@contextlib.contextmanager
def ray_cluster(logs: Path) -> Iterator[str]:
    """A Ray head with the dashboard on loopback, on ports of its own; gives the dashboard's URL.

    Ray's agent now and then misses its start on a busy machine, or loses a port to somebody, and the head
    gives up: then another is started, on other ports, once.
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
    # Some of Ray's own actors look for "the" cluster of the machine, which may have several.
    os.environ["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{port}"
    # Not in $TMPDIR: the paths of Ray's sockets may have no more than 107 characters.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as temp:
        command = [
            *("ray", "start", "--head", "--block"),
            *("--temp-dir", temp, "--disable-usage-stats"),
            # One for the job, one for its worker.
            *("--num-cpus", str(max(2, os.cpu_count() or 1))),
            *("--object-store-memory", str(400_000_000)),
            *("--dashboard-host", "127.0.0.1", "--dashboard-port", str(port)),
            *("--port", str(free_port()), "--ray-client-server-port", str(free_port())),
            *("--dashboard-agent-listen-port", str(free_port())),
        ]
        with background(command, log) as process:
            wait_for_port(port, process, log, 120)
            _wait_for_node(f"http://127.0.0.1:{port}", log, 120)
            yield f"http://127.0.0.1:{port}"


def _wait_for_node(dashboard: str, log: Path, seconds: float) -> None:
    """The dashboard answers before the head can take jobs: wait until it lists a living node."""
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
