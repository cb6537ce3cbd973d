"""Tests of deploy/iam-policy*.json on an S3 server that enforces them: each policy is enough for its jobs,
and allows nothing else.

The server (moto) checks actions and resources, but not conditions. So the policy files are read to test that
shards may be created but not replaced.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from PIL import Image
from pyarrow import fs

from demo import servers
from pipeline import compact, evaluate, export, report, storage, train
from pipeline.annotations import read_labelled_images
from pipeline.config import (
    CompactConfig,
    EvaluateConfig,
    ExportConfig,
    ReportConfig,
    ScoreConfig,
    TrainConfig,
)
from pipeline.record import plan
from pipeline.record.checks import set_aside
from pipeline.record.committer import Committer
from pipeline.record.manifest import write_manifest
from pipeline.record.run_format import begin_run
from pipeline.scoring import account
from pipeline.scoring.candidates import read_images
from pipeline.scoring.detector import DetectorActor
from pipeline.scoring.preflight import detector_settings, prepare, read_settings
from pipeline.scoring.resources import Resources
from pipeline.training.board import NAMES, TrainingBoard
from pipeline.training.same_run import claim_output
from tests.pipeline.record_cases import rows_of
from tests.pipeline.scored_runs import image, write_shard

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"
ROLES = {
    "score": "iam-policy",
    "repair": "iam-policy-repair",
    "train": "iam-policy-train",
    "results": "iam-policy-results",
}
BUCKET = "bucket"
PHOTOS = ("inbox/a.jpg", "inbox/b.jpg", "labelled/JPEGImages/a.jpg", "private/c.jpg")
ANNOTATION = """<annotation><filename>a.jpg</filename>
<size><width>40</width><height>30</height><depth>3</depth></size>
<object><name>cat</name><bndbox><xmin>3</xmin><ymin>3</ymin><xmax>20</xmax><ymax>20</ymax></bndbox></object>
</annotation>"""


def policy(role: str) -> str:
    return (DEPLOY / f"{ROLES[role]}.json").read_text()


def statements(role: str) -> dict[str, Any]:
    return {statement["Sid"]: statement for statement in json.loads(policy(role))["Statement"]}


def photo() -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (40, 30), (90, 20, 10)).save(sink, "JPEG")
    return sink.getvalue()


@pytest.fixture(scope="module")
def keys(
    tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path
) -> Iterator[dict[str, dict[str, str]]]:
    """Start a server with a bucket and one user per role; give their keys as environment variables."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "admin")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("INITIAL_NO_AUTH_ACTION_COUNT", "1000000")
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
        patch.setenv("PATH", path)
        with servers.s3_server(tmp_path_factory.mktemp("logs")) as endpoint:
            administration = boto3.Session()
            _fill(administration.client("s3"), tiny_checkpoint)
            users = {role: _user(administration.client("iam"), role) for role in ROLES}
            headers = {"Content-Type": "text/plain"}
            closed = urllib.request.Request(f"{endpoint}/moto-api/reset-auth", b"0", headers)
            urllib.request.urlopen(closed).close()
            yield users


def _fill(admin: Any, tiny_checkpoint: Path) -> None:
    admin.create_bucket(Bucket=BUCKET)
    files = dict.fromkeys((*PHOTOS, "results/scored/x/1.parquet"), photo())
    files |= {f"model/{file.name}": file.read_bytes() for file in tiny_checkpoint.iterdir()}
    files["labelled/Annotations/a.xml"] = ANNOTATION.encode()
    files["labelled/ImageSets/Main/test.txt"] = b"a\n"
    for key, body in files.items():
        admin.put_object(Bucket=BUCKET, Key=key, Body=body)


def _user(iam: Any, role: str) -> dict[str, str]:
    # HeadBucket needs s3:ListBucket; moto uses another name for it.
    told = policy(role).replace('"s3:ListBucket"', '["s3:ListBucket", "s3:HeadBucket"]')
    iam.create_user(UserName=role)
    iam.put_user_policy(UserName=role, PolicyName=role, PolicyDocument=told)
    key = iam.create_access_key(UserName=role)["AccessKey"]
    return {
        "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
    }


@pytest.fixture
def job(
    request: pytest.FixtureRequest,
    keys: dict[str, dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> Any:
    """Give an S3 client of the user with the role of the test, and set the environment variables of that
    user."""
    for name, value in keys[request.param].items():
        monkeypatch.setenv(name, value)
    return boto3.Session().client("s3")  # the default session keeps its first credentials


def outputs_of_a_training() -> set[str]:
    """A name for each file that the docstring of `pipeline.train` lists, e.g. ``validation/x/x``."""
    assert train.__doc__
    rows = [row for row in train.__doc__.splitlines() if row.startswith("<output>/")]
    listed = [name for row in rows for name in row.split("  ")[0].split(", ")]
    names = {re.sub(r"<\w+>|\.\.\.", "x", name.removeprefix("<output>/")) for name in listed}
    assert {"run.json", "recipe.json", "splits/x.txt", "curves.png", "result.json"} <= names
    return {f"{name}x" if name.endswith("/") else name for name in names}


def refused(job: Any, operations: list[tuple[str, dict[str, Any]]]) -> None:
    for operation, request in operations:
        with pytest.raises(ClientError) as caught:
            getattr(job, operation)(Bucket=BUCKET, **request)
        assert caught.value.response["Error"]["Code"] == "AccessDenied", (operation, request)


@pytest.mark.parametrize("job", ["repair"], indirect=True)
def test_the_policy_for_repairs_allows_moving_shards_and_plans(job: Any) -> None:
    output = "s3://bucket/results"
    for name in ("scored/y/00000000.parquet", "plans/000009.json"):
        assert storage.create_bytes(f"{output}/{name}", b"damaged")
        set_aside(output, "y", f"{output}/{name}", storage.basename(name))
        assert not storage.exists(f"{output}/{name}")
    storage.write_bytes(f"{output}/plans/parts/{'0' * 64}.parquet", b"")
    refused(
        job,
        [
            ("delete_object", {"Key": "inbox/a.jpg"}),
            ("delete_object", {"Key": "results/runs/y/damaged/000009.json"}),
            ("delete_object", {"Key": "results/plans/parts/0.parquet"}),
            ("put_object", {"Key": "inbox/a.jpg", "Body": b""}),
        ],
    )
    assert set(statements("score")) < set(statements("repair"))
    for name, statement in statements("score").items():
        assert statements("repair")[name] == statement


@pytest.mark.parametrize("job", ["score"], indirect=True)
def test_the_scoring_policy_allows_scoring_and_nothing_else(job: Any) -> None:
    config = ScoreConfig(
        images="s3://bucket/inbox", checkpoint="s3://bucket/model", output="s3://bucket/results"
    )
    prepared = prepare(config)
    storage.check_exclusive_create(config.output)
    planned = plan.extend(config.output, prepared.selection.listed, shard_size=1)
    begun = begin_run(config.output, prepared.run_id, (), account.description(prepared))
    committer = Committer(
        output=config.output,
        run_id=prepared.run_id,
        plan=planned,
        to_do=range(planned.num_shards),
        columns=begun.columns,
        metadata=begun.metadata(prepared.checkpoint.classes, prepared.checkpoint.model_id),
    )
    detector = DetectorActor(**detector_settings(prepared))
    committer.add(detector(read_images(rows_of(planned), read_settings(prepared))))
    committer.close()
    manifest = write_manifest(config.output, prepared.run_id, planned, committer.shards)
    assert (manifest.statuses, manifest.complete) == ({"ok": 2}, True)
    summary = account.ScoreSummary(
        run_id=prepared.run_id, statuses={}, images=2, scored=2, seconds=1.0, complete=True
    )
    resources = Resources(
        cpus=2.0, gpus=0.0, workers=1, detector_cpus=1.0, detector_gpus=0.0, read_cpus=0.9
    )
    account.write_summary(prepared, summary, resources)

    shard = f"results/scored/{prepared.run_id}/00000000.parquet"
    refused(
        job,
        [
            ("delete_object", {"Key": shard}),
            ("delete_object", {"Key": "inbox/a.jpg"}),
            ("put_object", {"Key": "inbox/a.jpg", "Body": b""}),
            ("put_object", {"Key": "model/model.safetensors", "Body": b""}),
            ("put_object", {"Key": "elsewhere", "Body": b""}),
            ("get_object", {"Key": "private/c.jpg"}),
            ("put_bucket_policy", {"Policy": "{}"}),
            ("delete_bucket", {}),
        ],
    )


def test_shards_may_be_created_and_never_replaced_or_deleted() -> None:
    allowed = statements("score")
    assert all(statement["Effect"] == "Allow" for statement in allowed.values())
    actions = {a for s in allowed.values() for a in [s["Action"]]}
    assert actions == {"s3:ListBucket", "s3:GetObject", "s3:PutObject"}
    # A PUT without If-None-Match lacks this condition key, so it is not allowed.
    for name, statement in allowed.items():
        written = json.dumps(statement["Resource"])
        if statement["Action"] == "s3:PutObject":
            free = statement.get("Condition") != {"Null": {"s3:if-none-match": "false"}}
            assert free == (name == "SayWhatTheLastCommandDid")
            assert "*/summary.json" in written if free else "summary" not in written


@pytest.mark.parametrize("job", ["train"], indirect=True)
def test_the_training_policy_allows_training_and_nothing_else(job: Any, tmp_path: Path) -> None:
    """The test writes what a training job writes, without a cluster."""
    config = TrainConfig(data="s3://bucket/labelled", output="s3://bucket/model", split="test")
    assert len(read_labelled_images(config.data[0], config.split).images) == 1
    claim_output(config, train.FREE_FLAGS)
    assert storage.create_bytes("s3://bucket/model/proposals/grid/part-1.parquet", b"boxes")
    assert storage.create_bytes("s3://bucket/model/checked/rpn/part-1.parquet", b"boxes")
    row = dict.fromkeys(NAMES, 0.5) | {"iteration": 1.0, "seconds": 1.0, "waited": 0.0}
    board = TrainingBoard(config.output, 0)
    board.step(row)
    board.add_validation(
        1, {"val_map": 0.5, "val_map50_95": 0.25, "val_ap": {}}, {"pr_curves.png": b"picture"}
    )
    board.save(1)
    board.close(failed=False)
    # Files of Ray Train, through the file system that it gets.
    filesystem, path = storage.arrow_filesystem(config.output)
    (tmp_path / "model.safetensors").write_bytes(bytes(10_000_000))
    fs.copy_files(str(tmp_path), f"{path}/train/checkpoint_1", destination_filesystem=filesystem)
    with filesystem.open_output_stream(f"{path}/train/checkpoint_manager_snapshot.json") as sink:
        sink.write(b"{}")
    assert storage.create_bytes(f"{config.output}/recipe.json", b"{}")
    for _ in range(2):  # a resumed training writes them again
        for name in outputs_of_a_training() - {
            "run.json",
            "recipe.json",
            "proposals/x",
            "checked/x",
        }:
            storage.write_bytes(f"{config.output}/{name}", b"{}")

    kept = "model/train/checkpoint_1/model.safetensors"
    answer = job.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": kept}]})
    assert [error["Code"] for error in answer["Errors"]] == ["AccessDenied"]
    refused(
        job,
        [
            ("delete_object", {"Key": kept}),
            ("delete_object", {"Key": "labelled/JPEGImages/a.jpg"}),
            ("put_object", {"Key": "labelled/JPEGImages/a.jpg", "Body": b""}),
            ("put_object", {"Key": "model/elsewhere", "Body": b""}),
            ("put_object", {"Key": "results/scored/x/1.parquet", "Body": b""}),
            ("get_object", {"Key": "results/scored/x/1.parquet"}),
            ("get_object", {"Key": "private/c.jpg"}),
        ],
    )


@pytest.mark.parametrize("job", ["results"], indirect=True)
def test_the_results_policy_allows_reading_results_and_nothing_else(
    keys: dict[str, dict[str, str]], job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        for name, value in keys["score"].items():
            patch.setenv(name, value)
        etag = hashlib.md5(photo()).hexdigest()
        rows = [
            image(f"s3://bucket/{key}", ("cat", 0.9, (2, 2, 20, 20)), size=(30, 40), etag=etag)
            for key in ("inbox/a.jpg", "labelled/JPEGImages/a.jpg")
        ]
        write_shard("s3://bucket/results", *rows, run_id="r1")
    scored = {"scored": "s3://bucket/results", "run_id": "r1"}
    for _ in range(2):  # the second time replaces the files
        compact.run(CompactConfig(output="s3://bucket/results", **scored))
        labels = {"data": "s3://bucket/labelled", "split": "test"}
        evaluate.run(EvaluateConfig(**scored, **labels))
        made = report.run(ReportConfig(output="s3://bucket/results", **scored, **labels))
        assert made.pictures == 2
        export.run(ExportConfig(output="s3://bucket/results/export", format="coco", **scored))
    refused(
        job,
        [
            ("delete_object", {"Key": "results/detections/r1.parquet"}),
            ("put_object", {"Key": "results/scored/r1/00000000.parquet", "Body": b""}),
            ("put_object", {"Key": "results/plans/x", "Body": b""}),
            ("put_object", {"Key": "inbox/a.jpg", "Body": b""}),
            ("put_object", {"Key": "model/config.json", "Body": b""}),
            ("get_object", {"Key": "model/config.json"}),
            ("get_object", {"Key": "private/c.jpg"}),
        ],
    )


@pytest.mark.parametrize("role", ROLES)
def test_no_policy_allows_deleting_or_replacing_what_training_creates(role: str) -> None:
    told = [s["Action"] for s in statements(role).values()]
    actions = {
        name for told_of in told for name in ([told_of] if isinstance(told_of, str) else told_of)
    }
    reading, writing = (
        {"s3:ListBucket", "s3:GetObject"},
        {"s3:PutObject", "s3:AbortMultipartUpload"},
    )
    moving = {"s3:DeleteObject"} if role == "repair" else set()
    assert reading < actions <= reading | writing | moving
    conditional = {n for n, s in statements(role).items() if "Condition" in s}
    assert (
        conditional
        == {
            "score": {"CreateResultsNeverReplaceThem"},
            "repair": {"CreateResultsNeverReplaceThem", "KeepWhatARepairMoves"},
            "train": {"CreateWhatStaysNeverReplaceIt"},
            "results": set(),
        }[role]
    )
