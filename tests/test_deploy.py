"""Tests of cluster.yaml and deploy/: they fit Ray's schema, and use flags and files that exist."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml

from pipeline.config import ScoreConfig
from pipeline.runtime.arguments import parse_arguments

CHECKOUT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((CHECKOUT / "cluster.yaml").read_text())
    return document


def test_cluster_yaml_fits_the_schema_of_ray(cluster: dict[str, Any]) -> None:
    schema = Path(ray.__file__).parent / "autoscaler" / "ray-schema.json"
    jsonschema.validate(cluster, json.loads(schema.read_text()))
    assert cluster["head_node_type"] in cluster["available_node_types"]


def test_every_node_uses_the_token_and_no_dashboard_is_public(cluster: dict[str, Any]) -> None:
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        (start,) = [line for line in cluster[commands] if "ray start" in line]
        assert "export RAY_AUTH_MODE=token;" in start
        assert "0.0.0.0" not in start
    assert "--dashboard-host=127.0.0.1" in cluster["head_start_ray_commands"][-1]
    assert "~/.ray/auth_token" in cluster["file_mounts"]


def test_the_head_has_no_cpus_and_workers_are_spot_nodes(cluster: dict[str, Any]) -> None:
    types = cluster["available_node_types"]
    assert types["head"]["resources"]["CPU"] == 0
    for name in ("cpu", "gpu"):
        assert types[name]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
        assert types[name]["node_config"]["IamInstanceProfile"] == {"Name": "RayWorker"}
    assert sum(types[name]["max_workers"] for name in ("cpu", "gpu")) == cluster["max_workers"]


def test_the_kubernetes_job_has_valid_flags_and_the_locked_version_of_ray() -> None:
    job = yaml.safe_load((CHECKOUT / "deploy" / "rayjob.yaml").read_text())
    spec = job["spec"]
    python, script, *flags = shlex.split(spec["entrypoint"])
    assert python == "python"
    assert (CHECKOUT / script.removeprefix("/opt/fastrcnn-ray/")).is_file()
    config = parse_arguments(ScoreConfig, flags, script)
    assert config.output == "s3://bucket/results"
    locked = re.search(r"^ray==(\S+)", (CHECKOUT / "requirements.lock").read_text(), re.M)
    assert locked
    assert spec["rayClusterSpec"]["rayVersion"] == locked[1]
    assert spec["rayClusterSpec"]["authOptions"] == {"mode": "token"}


def test_the_docker_image_holds_the_packages_that_jobs_import() -> None:
    lines = (CHECKOUT / "Dockerfile").read_text().splitlines()
    copied = {word for line in lines if line.startswith("COPY") for word in line.split()[1:-1]}
    assert {
        "requirements.lock",
        "pyproject.toml",
        "LICENSE",
        "fastrcnn",
        "pipeline",
        "jobs",
    } <= copied
    for name in copied:
        assert (CHECKOUT / name).exists(), name
