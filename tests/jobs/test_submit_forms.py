"""Tests of submitting a job by its file, on a cluster started in the checkout.

The documented form, ``ray job submit --working-dir . -- python jobs/X.py``, is tested by the demo
(`test_demo.py`), and the direct form by the tests of each job. This file tests the two other forms, and that
a secret in the environment is not written anywhere. Without ``--`` before the job, Ray's command line would
read the flags of the job as its flags.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo import servers
from pipeline import report, storage
from pipeline.config import ReportConfig
from pipeline.draw_scenes import draw_split
from pipeline.runtime.cluster import asks_for_token

CHECKOUT = Path(__file__).resolve().parents[2]
FORMS = {"working-dir": ["--working-dir", "."], "literal": []}
TRAIN = (
    "--backbone tiny --weights none --proposals grid --max-proposals 50 --scale 96 --fc-dim 16"
    " --rois-per-image 16 --batch-size 2 --iterations 1"
).split()

CANARY = secrets.token_hex(20)
"""S3 secret of the cluster and its jobs."""

pytestmark = [pytest.mark.timeout(600), pytest.mark.long]


@pytest.fixture(scope="module")
def dashboard(s3: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a cluster with token authentication in the checkout; this Python comes first in PATH."""
    before = set(Path("/tmp").glob("ray-*"))
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(CHECKOUT)
        patch.setenv("PATH", path)
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        patch.setenv("AWS_SECRET_ACCESS_KEY", CANARY)
        patch.setenv("AWS_SESSION_TOKEN", CANARY)
        patch.setenv("RAY_memory_monitor_refresh_ms", "0")
        patch.delenv("PYTHONPATH", raising=False)
        with servers.ray_cluster(tmp_path_factory.mktemp("logs")) as url:
            yield url
            logs = [
                file
                for folder in set(Path("/tmp").glob("ray-*")) - before
                for file in folder.glob("session_*/logs/**/*")
                if file.is_file() and not file.is_symlink()
            ]
            assert any("job-driver" in file.name for file in logs)
            assert [file.name for file in logs if CANARY.encode() in file.read_bytes()] == []


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    draw_split(folder, "train", range(3), seed=0)
    return folder


def submit(dashboard: str, form: str, *command: str) -> str:
    done = subprocess.run(
        ["ray", "job", "submit", "--address", dashboard, *FORMS[form], "--", *command],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.parametrize("form", FORMS)
def test_each_job_runs_if_its_file_is_submitted(
    form: str, dashboard: str, bucket: str, shapes: Path
) -> None:
    data, model, results = (f"{bucket}/{name}" for name in ("shapes", "model", "results"))
    storage.upload_folder(shapes, data)
    output = submit(dashboard, form, "jobs/train.py", "--data", data, "--output", model, *TRAIN)
    places = ["--images", f"{data}/JPEGImages", "--checkpoint", model, "--output", results]
    output += submit(dashboard, form, "jobs/score_bucket.py", *places)
    shards = storage.list_objects(f"{results}/scored")
    assert [storage.basename(shard.uri).endswith(".parquet") for shard in shards] == [True]
    labels = ["--data", data, "--split", "train"]
    output += submit(dashboard, form, "jobs/evaluate.py", "--scored", results, *labels)
    (metrics,) = [
        info.uri
        for info in storage.list_objects(f"{results}/evaluation")
        if info.uri.endswith("metrics.json")
    ]
    assert 0 <= json.loads(storage.read_bytes(metrics))["voc07"]["mean_ap"] <= 1
    report.run(ReportConfig(scored=results, output=results))
    assert CANARY not in output
    written = [info.uri for place in (model, results) for info in storage.list_objects(place)]
    assert any(uri.endswith(".html") for uri in written)
    assert len(written) > 10  # checkpoints, tables, plans, manifests, curves, the page
    assert [uri for uri in written if CANARY.encode() in storage.read_bytes(uri)] == []


def test_the_cluster_reports_token_authentication(dashboard: str) -> None:
    assert asks_for_token(dashboard)


def test_a_submitted_job_ends_as_the_readme_says(dashboard: str, tmp_path: Path) -> None:
    """Ray ends with 1 for every failed job. It prints the code of the job, and at the end its message."""
    name = f"wrong-{secrets.token_hex(4)}"
    command = [
        "python",
        "jobs/compact.py",
        "--scored",
        f"{tmp_path}/none",
        "--output",
        str(tmp_path),
    ]
    where = ["--address", dashboard]
    done = subprocess.run(
        [
            "ray",
            "job",
            "submit",
            *where,
            *FORMS["working-dir"],
            "--submission-id",
            name,
            "--",
            *command,
        ],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 1, done.stdout
    (line,) = [line for line in done.stdout.splitlines() if "Status message" in line]
    assert "failed with exit code 2" in line
    message = f"error: {tmp_path}/none: names no object"
    assert done.stdout.strip().splitlines()[-1].startswith(message), done.stdout
    logs = subprocess.run(
        ["ray", "job", "logs", *where, name], capture_output=True, text=True, check=True
    ).stdout
    assert message in logs
    status = subprocess.run(
        ["ray", "job", "status", *where, name], capture_output=True, text=True, check=True
    )
    assert f"Job '{name}' failed" in re.sub(r"\x1b\[\d*m", "", status.stdout + status.stderr)
