"""deploy/iam-policy.json before an S3 server that enforces it: a scoring job lives on it, and has no more.

The server (moto) knows actions and resources; it does not look at conditions. That shards may be created but
not replaced is therefore asked of the document.
"""

from __future__ import annotations

import io
import json
import os
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from PIL import Image

from jobs import demo_servers
from pipeline import plan, score_report, storage
from pipeline.candidates import read_images
from pipeline.committer import Committer
from pipeline.config import ScoreConfig
from pipeline.detector import Detector
from pipeline.manifest import write_manifest
from pipeline.preflight import Resources, detector_settings, prepare, read_settings
from pipeline.schema import scored_metadata
from tests.pipeline.record_cases import rows_of

POLICY = Path(__file__).resolve().parents[1] / "deploy" / "iam-policy.json"
BUCKET = "bucket"


def statements() -> dict[str, Any]:
    return {
        statement["Sid"]: statement for statement in json.loads(POLICY.read_text())["Statement"]
    }


def photo() -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (40, 30), (90, 20, 10)).save(sink, "JPEG")
    return sink.getvalue()


@pytest.fixture
def job(tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An S3 client of a user who has the policy; the environment is that user's, too."""
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "admin")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("INITIAL_NO_AUTH_ACTION_COUNT", "1000000")
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    monkeypatch.setenv("PATH", path)
    with demo_servers.s3_server(tmp_path) as endpoint:
        administration = boto3.Session()
        admin = administration.client("s3")
        admin.create_bucket(Bucket=BUCKET)
        for key in ("inbox/a.jpg", "inbox/b.jpg", "private/c.jpg", "results/scored/x/1.parquet"):
            admin.put_object(Bucket=BUCKET, Key=key, Body=photo())
        for file in tiny_checkpoint.iterdir():
            admin.put_object(Bucket=BUCKET, Key=f"model/{file.name}", Body=file.read_bytes())
        iam = administration.client("iam")
        iam.create_user(UserName="job")
        iam.put_user_policy(UserName="job", PolicyName="job", PolicyDocument=POLICY.read_text())
        key = iam.create_access_key(UserName="job")["AccessKey"]
        headers = {"Content-Type": "text/plain"}
        closed = urllib.request.Request(f"{endpoint}/moto-api/reset-auth", b"0", headers)
        urllib.request.urlopen(closed).close()
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
        yield boto3.Session().client("s3")  # the shared session keeps the first credentials it saw


def test_a_job_scores_with_the_policy_and_can_do_nothing_else(job: Any) -> None:
    config = ScoreConfig(
        images="s3://bucket/inbox", checkpoint="s3://bucket/model", output="s3://bucket/results"
    )
    prepared = prepare(config)
    storage.check_exclusive_create(config.output)
    planned = plan.extend(config.output, prepared.selection.listed, shard_size=1)
    score_report.write_config(prepared)
    committer = Committer(
        output=config.output,
        run_id=prepared.run_id,
        plan=planned,
        to_do=range(planned.num_shards),
        metadata=scored_metadata(prepared.checkpoint.classes, prepared.checkpoint.model_id),
    )
    detector = Detector(**detector_settings(prepared))
    committer.add(detector(read_images(rows_of(planned), read_settings(prepared))))
    committer.close()
    manifest = write_manifest(config.output, prepared.run_id, planned, committer.shards)
    assert (manifest.statuses, manifest.complete) == ({"ok": 2}, True)
    summary = score_report.ScoreSummary(
        run_id=prepared.run_id, statuses={}, images=2, scored=2, seconds=1.0, complete=True
    )
    resources = Resources(
        cpus=2.0, gpus=0.0, workers=1, detector_cpus=1.0, detector_gpus=0.0, read_cpus=0.9
    )
    score_report.write_summary(prepared, summary, resources)

    shard = f"results/scored/{prepared.run_id}/00000000.parquet"
    for operation, request in (
        ("delete_object", {"Key": shard}),
        ("delete_object", {"Key": "inbox/a.jpg"}),
        ("put_object", {"Key": "inbox/a.jpg", "Body": b""}),
        ("put_object", {"Key": "model/model.safetensors", "Body": b""}),
        ("put_object", {"Key": "elsewhere", "Body": b""}),
        ("get_object", {"Key": "private/c.jpg"}),
        ("put_bucket_policy", {"Policy": "{}"}),
        ("delete_bucket", {}),
    ):
        with pytest.raises(ClientError) as caught:
            getattr(job, operation)(Bucket=BUCKET, **request)
        assert caught.value.response["Error"]["Code"] == "AccessDenied", (operation, request)


def test_shards_may_be_created_and_never_replaced_or_deleted() -> None:
    allowed = statements()
    assert all(statement["Effect"] == "Allow" for statement in allowed.values())
    actions = {a for s in allowed.values() for a in [s["Action"]]}
    assert actions == {"s3:ListBucket", "s3:GetObject", "s3:PutObject"}
    # A PUT without If-None-Match has no such key, so it is not allowed.
    for name, statement in allowed.items():
        written = json.dumps(statement["Resource"])
        if statement["Action"] == "s3:PutObject":
            free = statement.get("Condition") != {"Null": {"s3:if-none-match": "false"}}
            assert free == (name == "SayWhatTheLastCommandDid")
            assert "*/summary.json" in written if free else "summary" not in written
