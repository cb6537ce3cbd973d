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
    """Folder of real images with boxes. It is beside the checkout and is never copied into it."""
    if not (SHARED / "data").is_dir():
        pytest.skip("no ../shared/data beside the checkout: real images are not in the repository")
    return SHARED / "data"


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """Start an S3 server (moto) on a free loopback port and set its environment variables; give its URL.

    With TEST_S3_SERVER, use the server at that URL, which must know the keys below (docs/operations.md: Ceph
    RGW).
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
    """Give a client (boto3) that is independent of the tested code, to write and check objects."""
    return boto3.client("s3", endpoint_url=s3)


@pytest.fixture
def bucket(s3_client: Any) -> str:
    """Create an empty bucket; give its URI without a slash at the end."""
    name = f"test-{os.getpid()}-{next(_bucket_numbers)}"
    s3_client.create_bucket(Bucket=name)
    return f"s3://{name}"


@pytest.fixture(scope="session")
def worker_proxy(s3: str) -> Iterator[FaultyProxy]:
    """The proxy that workers of `ray_cluster` use as S3 server. By default it changes nothing.

    A test that sets faults must remove them again.
    """
    with serving(FaultyProxy(s3)) as proxy:
        yield proxy


def _report_fork() -> None:
    """Fail the test that forks a process that has joined Ray.

    Such a process may miss every later message about its actors (Ray 2.60), and then waits for the next actor
    for ever, in another test. A child that is started without `preexec_fn` is no fork in this sense. The fork
    happens all the same: pytest reports it at the end of the test.
    """
    if ray.is_initialized():
        raise RuntimeError("a process that has joined Ray was forked: start a process anew instead")


# An error there becomes pytest's warning, and so a failure.
os.register_at_fork(before=_report_fork)


@pytest.fixture(scope="session")
def ray_cluster(worker_proxy: FaultyProxy) -> Iterator[None]:
    """Start a Ray cluster of 2 CPUs. Its workers have the environment of this session, except
    `worker_proxy`."""
    # Without the first, ray.init writes a token to the home folder, which later clusters would use. Without
    # the second, Ray kills workers because of the memory of other programs.
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_memory_monitor_refresh_ms": "0"}
    # The path is short, because paths of sockets may have at most 107 bytes.
    folder = tempfile.mkdtemp(prefix="ray-")
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
    """A detector of two classes with random weights and grid proposals. It gives one to five boxes per
    image."""
    return save_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint")


@pytest.fixture(scope="session")
def rpn_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Like `tiny_checkpoint`, but with an RPN of at most 30 proposals per image."""
    rpn = RPNConfig(sides=((16.0, 32.0),), max_proposals_test=30)
    return save_tiny_checkpoint(tmp_path_factory.mktemp("rpn") / "checkpoint", rpn)


def save_tiny_checkpoint(folder: Path, rpn: RPNConfig | None = None) -> Path:
    """Write the checkpoint of `tiny_checkpoint` into a new folder; give the folder."""
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
