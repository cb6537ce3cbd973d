"""Where a round takes place: an S3 server, the proxy before it, a Ray cluster, a checkpoint, and images."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3

from demo.processes import background, free_port, wait_for_port
from tests.conftest import save_tiny_checkpoint
from tests.fault_proxy import FaultyProxy, serving
from tests.soak.cluster import Cluster, RunningCluster
from tests.soak.record import Watch

_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "soak",
    "AWS_SECRET_ACCESS_KEY": "soak",
    "AWS_DEFAULT_REGION": "us-east-1",
}
RATES = {
    "503": 0.20,
    "reset": 0.02,
    "lost": 0.02,
    "late": 0.01,
    "short": 0.015,
    "shortened": 0.01,
    "flip": 0.015,
    "slow": 0.01,
}
"""The faults of the store: 20% 503, 5% resets, 5% broken bodies."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """All of it, running."""

    client: Any
    """boto3's, straight to the server."""
    proxy: FaultyProxy
    """What the cluster's workers and the drivers take for S3."""
    cluster: RunningCluster
    checkpoint: Path | str
    bucket: str
    logs: Path

    @property
    def folder(self) -> str:
        """The URI of the folder of the images."""
        return f"s3://{self.bucket}/in"

    def flags(self, output: str, *more: str) -> list[str]:
        """The flags of jobs/score_bucket.py, for images under in/ and an output in the bucket."""
        places = ("--images", self.folder, "--checkpoint", str(self.checkpoint))
        return [*places, "--output", f"s3://{self.bucket}/{output}", *more]

    def watch(self, output: str) -> Watch:
        """The URIs of the shards under an output in the bucket."""
        return Watch(self.client, self.bucket, f"{output}/scored/")

    def put(self, contents: Mapping[str, bytes]) -> list[str]:
        """Images under in/, by name; their URIs."""
        for name, data in contents.items():
            self.client.put_object(Bucket=self.bucket, Key=f"in/{name}", Body=data)
        return [f"s3://{self.bucket}/in/{name}" for name in contents]

    def delete(self, names: Iterable[str]) -> None:
        """Delete images under in/."""
        for name in names:
            self.client.delete_object(Bucket=self.bucket, Key=f"in/{name}")


def node_key(number: int) -> str:
    """Return the AWS_ACCESS_KEY_ID of a node. By it the proxy knows who asks."""
    return f"node-{number}"


def _credentials(number: int) -> dict[str, str]:
    return {"AWS_ACCESS_KEY_ID": node_key(number)}


@contextlib.contextmanager
def open_site(
    logs: Path, num_nodes: int, node_flags: Sequence[str] = (), **settings: str
) -> Iterator[Site]:
    """Start everything; whatever happens, nothing is left running.

    Args:
        logs: a folder for what server and nodes say.
        num_nodes: of the cluster.
        node_flags: of `ray start`, for each node.
        settings: environment of the nodes, beside `cluster.SETTINGS`.
    """
    port, log = free_port(), logs / "s3-server.log"
    server = str(Path(sys.executable).parent / "moto_server")
    # A separate process: it is to be asked by many at once.
    with background([server, "-H", "127.0.0.1", "-p", str(port)], log) as process:
        wait_for_port(port, process, log, 120)
        url = f"http://127.0.0.1:{port}"
        client = boto3.client(
            "s3",
            endpoint_url=url,
            region_name=_ENVIRONMENT["AWS_DEFAULT_REGION"],
            aws_access_key_id=_ENVIRONMENT["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=_ENVIRONMENT["AWS_SECRET_ACCESS_KEY"],
        )
        client.create_bucket(Bucket="soak")
        with serving(FaultyProxy(url)) as proxy:
            environment = {**_ENVIRONMENT, "AWS_ENDPOINT_URL": proxy.url, **settings}
            cluster = Cluster(logs, num_nodes, environment, node_flags, of_node=_credentials)
            try:
                cluster.start()
                yield Site(
                    client=client,
                    proxy=proxy,
                    cluster=cluster,
                    bucket="soak",
                    checkpoint=save_tiny_checkpoint(logs / "checkpoint"),
                    logs=logs,
                )
            finally:
                cluster.close()
