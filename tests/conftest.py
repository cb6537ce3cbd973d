"""Fixtures shared by all tests."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

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
    """A real S3 server (moto) on a free loopback port, in the environment of this session; its URL."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
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


@pytest.fixture()
def bucket(s3_client: Any) -> str:
    """The URI of a fresh, empty bucket, without a slash at its end."""
    name = f"test-{os.getpid()}-{next(_bucket_numbers)}"
    s3_client.create_bucket(Bucket=name)
    return f"s3://{name}"
