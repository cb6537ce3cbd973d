"""Fixtures shared by all tests."""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import ray
import torch
from moto.server import ThreadedMotoServer

from fastrcnn.checkpoint import save_checkpoint
from fastrcnn.config import FastRCNNConfig, ProposalConfig, RPNConfig
from fastrcnn.model import FastRCNN
from tests.fault_proxy import FaultyProxy, serving

CHECKOUT = Path(__file__).resolve().parents[1]
SHARED = Path(__file__).resolve().parents[2] / "shared"
_bucket_numbers = itertools.count()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real images with boxes; they lie beside the checkout and are never copied into it."""
    if not (SHARED / "data").is_dir():
        pytest.skip("no ../shared/data beside the checkout: real images are not in the repository")
    return SHARED / "data"


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """A real S3 server (moto) on a free loopback port, in the environment of this session; its URL.

    Or the one at TEST_S3_SERVER, a URL, which knows the keys below (docs/operations.md: Ceph RGW).
    """
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": os.environ.get("TEST_S3_SERVER", f"http://{host}:{port}"),
        "AWS_ACCESS_KEY_ID": "test-key",
        "AWS_SECRET_ACCESS_KEY": "test-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    yield settings["AWS_ENDPOINT_URL"]
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value
    server.stop()


@pytest.fixture(scope="session")
def s3_client(s3: str) -> Any:
    """A second, independent client (boto3) to arrange objects with and to look at them."""
    return boto3.client("s3", endpoint_url=s3)


@pytest.fixture
def bucket(s3_client: Any) -> str:
    """The URI of a fresh, empty bucket, without a slash at its end."""
    name = f"test-{os.getpid()}-{next(_bucket_numbers)}"
    s3_client.create_bucket(Bucket=name)
    return f"s3://{name}"


@pytest.fixture(scope="session")
def worker_proxy(s3: str) -> Iterator[FaultyProxy]:
    """What the workers of `ray_cluster` take for the S3 server. Everything passes; a test that says
    otherwise takes it back."""
    with serving(FaultyProxy(s3)) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def ray_cluster(worker_proxy: FaultyProxy) -> Iterator[None]:
    """A Ray cluster of 2 CPUs; its workers have this session's environment, but for `worker_proxy`."""
    # Without the first, ray.init writes a token to the home folder that later clusters would obey; without
    # the second, another program's memory makes Ray kill our workers.
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_memory_monitor_refresh_ms": "0"}
    folder = tempfile.mkdtemp(
        prefix="ray-"
    )  # short: it holds sockets, whose paths may have 107 bytes
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ENDPOINT_URL", worker_proxy.url)
        ray.init(
            address="local",
            num_cpus=2,
            num_gpus=0,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": {"PYTHONPATH": str(CHECKOUT)}},
            _temp_dir=folder,
        )
    yield
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector of two classes with random weights on grid proposals; one to five boxes an image."""
    return save_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint")


@pytest.fixture(scope="session")
def rpn_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_checkpoint`, but for proposals of its own, 30 an image at most."""
    rpn = RPNConfig(sides=((16.0, 32.0),), max_proposals_test=30)
    return save_tiny_checkpoint(tmp_path_factory.mktemp("rpn") / "checkpoint", rpn)


def save_tiny_checkpoint(folder: Path, rpn: RPNConfig | None = None) -> Path:
    """What `tiny_checkpoint` is, in a folder that is not there yet; the folder."""
    config = FastRCNNConfig(
        num_classes=2,
        backbone="tiny",
        fc_dim=64,
        scale=64,
        max_size=96,
        detections_per_image=5,
        rpn=rpn,
    )
    torch.manual_seed(0)
    proposals = ProposalConfig(name="rpn" if rpn else "grid", max_boxes=30)
    save_checkpoint(
        folder, FastRCNN(config), classes=("cat", "dog"), proposals=proposals, training={}
    )
    return folder
