"""Tests of cluster.yaml and deploy/: they fit Ray's schema, and use flags and files that exist."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml

from pipeline.config import ScoreConfig, TrainConfig
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


@pytest.fixture(scope="module")
def rayjob() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((CHECKOUT / "deploy" / "rayjob.yaml").read_text())
    return document


def test_the_kubernetes_job_has_valid_flags_and_the_locked_version_of_ray(
    rayjob: dict[str, Any],
) -> None:
    spec = rayjob["spec"]
    bash, option, script = shlex.split(spec["entrypoint"])
    assert (bash, option) == ("bash", "-c")
    (command,) = re.findall(r"python (/opt/\S+) ([^;]+);", script)
    assert (CHECKOUT / command[0].removeprefix("/opt/fastrcnn-ray/")).is_file()
    config = parse_arguments(ScoreConfig, shlex.split(command[1]), command[0])
    assert config.output == "s3://bucket/results"
    groups = {group["groupName"]: group for group in spec["rayClusterSpec"]["workerGroupSpecs"]}
    assert config.max_workers == groups["gpu"]["maxReplicas"]
    locked = re.search(r"^ray==(\S+)", (CHECKOUT / "requirements.lock").read_text(), re.M)
    assert locked
    assert spec["rayClusterSpec"]["rayVersion"] == locked[1]
    assert spec["rayClusterSpec"]["authOptions"] == {"mode": "token"}


@pytest.mark.parametrize(
    ("codes", "runs", "code"),
    [
        ("0", 1, 0),
        ("1 0", 2, 0),
        ("1 1 1 0", 3, 1),
        ("2 0", 1, 2),
        ("1 2 0", 2, 2),
        ("137", 1, 137),
    ],
)
def test_the_kubernetes_job_gives_the_command_again_only_after_exit_code_1(
    rayjob: dict[str, Any], tmp_path: Path, codes: str, runs: int, code: int
) -> None:
    """The entrypoint runs as it stands, with a `python` that exits with each of the codes in turn."""
    python = tmp_path / "python"
    python.write_text(
        '#!/bin/bash\necho >> "$RUNS"\ncodes=($CODES)\nexit ${codes[$(wc -l < "$RUNS") - 1]}\n'
    )
    python.chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "RUNS": str(tmp_path / "runs"),
        "CODES": codes,
        "RETRY_PAUSE_S": "0",
    }
    done = subprocess.run(
        rayjob["spec"]["entrypoint"], shell=True, env=environment, check=False, timeout=30
    )
    assert done.returncode == code
    assert len((tmp_path / "runs").read_text().splitlines()) == runs


def only(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    """Give the schema of an object with these properties and no others."""
    return {
        "type": "object",
        "properties": required | optional,
        "required": list(required),
        "additionalProperties": False,
    }


TEXT, COUNT, FLAG = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
TEXTS = {"type": "object", "additionalProperties": TEXT}
POD = only({"spec": {"type": "object", "required": ["containers"]}}, metadata={"type": "object"})
GROUP = {"rayStartParams": TEXTS, "template": POD}
WORKERS = only(GROUP | {"groupName": TEXT}, replicas=COUNT, minReplicas=COUNT, maxReplicas=COUNT)
CLUSTER = only(
    {"headGroupSpec": only(GROUP), "rayVersion": TEXT},
    workerGroupSpecs={"type": "array", "items": WORKERS},
    enableInTreeAutoscaling=FLAG,
    authOptions=only({"mode": {"enum": ["disabled", "token"]}}),
)
JOB = only(
    {"entrypoint": TEXT, "rayClusterSpec": CLUSTER},
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
    shutdownAfterJobFinishes=FLAG,
    ttlSecondsAfterFinished=COUNT,
    activeDeadlineSeconds=COUNT,
    backoffLimit=COUNT,
)
"""The fields of KubeRay 1.6 that the file uses (ray-project.github.io/kuberay/reference/api)."""


def test_the_kubernetes_job_fits_the_fields_of_kuberay(rayjob: dict[str, Any]) -> None:
    names = {"apiVersion": {"const": "ray.io/v1"}, "kind": {"const": "RayJob"}}
    jsonschema.validate(rayjob, only(names | {"metadata": {"type": "object"}, "spec": JOB}))
    assert rayjob["spec"]["backoffLimit"] == 1


def test_both_clusters_begin_with_a_head_alone(
    cluster: dict[str, Any], rayjob: dict[str, Any]
) -> None:
    """The jobs ask for nodes; the head takes no work."""
    spec = rayjob["spec"]["rayClusterSpec"]
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert spec["enableInTreeAutoscaling"] is True
    assert {group["replicas"] for group in spec["workerGroupSpecs"]} == {0}
    types = cluster["available_node_types"]
    assert {types[name]["min_workers"] for name in ("cpu", "gpu")} == {0}


def test_the_head_is_as_large_as_the_operations_page_says(rayjob: dict[str, Any]) -> None:
    """`tests/benchmarks/test_head.py` measures that this is enough."""
    page = (CHECKOUT / "docs" / "operations.md").read_text()
    stated = re.search(r"The head needs (\d+) cores and (\d+) GB to score", page)
    assert stated
    (head,) = rayjob["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"]
    assert head["resources"]["requests"] == {"cpu": stated[1], "memory": f"{stated[2]}Gi"}


def test_commands_in_the_comments_of_the_cluster_are_valid() -> None:
    text = (CHECKOUT / "cluster.yaml").read_text().replace("\\\n#", "")
    commands = re.findall(r"-- python (jobs/\w+\.py) ([^#\n]+)", text)
    assert [script for script, _ in commands] == ["jobs/score_bucket.py", "jobs/train.py"]
    for (script, flags), config in zip(commands, (ScoreConfig, TrainConfig), strict=True):
        given = [word if word != "..." else "s3://b/a" for word in shlex.split(flags)]
        parse_arguments(config, given, script)


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
