"""Faults between this process and S3: a proxy before the real server (moto) breaks requests on purpose."""

from __future__ import annotations

import os
import pickle
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from pipeline import storage
from pipeline.errors import JobError, ObjectUnreachable, UserError
from pipeline.storage.retry import Transient
from pipeline.storage.s3_answers import classify
from tests.fault_proxy import FaultyProxy, serving

DATA = bytes(range(256)) * 400  # 100 KB: more than one packet


@pytest.fixture
def proxy(s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """A proxy that is the S3 endpoint of this process."""
    with serving(FaultyProxy(s3)) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        yield server


@pytest.fixture
def uri(bucket: str, proxy: FaultyProxy) -> str:
    """An object behind the proxy."""
    storage.write_bytes(f"{bucket}/object", DATA)
    proxy.requests.clear()
    return f"{bucket}/object"


@pytest.mark.parametrize("fault", ["503", "reset", "lost", "short", "shortened", "flip"])
def test_a_read_that_fails_twice_succeeds(uri: str, proxy: FaultyProxy, fault: str) -> None:
    proxy.faults = [fault, fault]
    assert storage.read_bytes(uri) == DATA
    assert proxy.requests == [f"GET {fault}", f"GET {fault}", "GET pass"]


@pytest.mark.parametrize("fault", ["shortened", "flip"])
def test_an_etag_that_is_an_md5_is_used_as_a_checksum(
    uri: str, proxy: FaultyProxy, fault: str
) -> None:
    proxy.without_checksums = True
    proxy.faults = [fault]
    assert storage.read_bytes(uri) == DATA
    assert proxy.requests == [f"GET {fault}", "GET pass"]


def test_bytes_that_arrive_four_times_are_accepted(uri: str, proxy: FaultyProxy) -> None:
    """Some stores make ETags that are not an MD5. Once that is known, no object is read twice."""
    proxy.without_checksums = True
    proxy.faults = ["shortened"] * 5
    assert storage.read_bytes(uri) == DATA[: len(DATA) // 2]
    assert len(proxy.requests) == 4
    storage.read_bytes(uri)
    assert len(proxy.requests) == 5


def test_in_an_outage_only_the_first_read_waits_long(
    uri: str, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.storage.retry.OUTAGE_DEADLINE_S", 0.2)
    proxy.forever = "503"
    with pytest.raises(storage.ObjectUnreadable):
        storage.read_bytes(uri, deadline_s=1)
    start = time.monotonic()
    with pytest.raises(storage.ObjectUnreadable):
        storage.read_bytes(uri, deadline_s=100)
    assert time.monotonic() - start < 10
    proxy.forever = None
    assert storage.read_bytes(uri) == DATA
    proxy.faults = ["503"] * 4  # the outage is over, so the deadline is long again
    assert storage.read_bytes(uri) == DATA


def test_expired_credentials_are_denied(uri: str, proxy: FaultyProxy) -> None:
    """S3 sends status 400 for them."""
    proxy.forever = "expired"
    with pytest.raises(storage.ObjectDenied, match="ExpiredToken"):
        storage.read_bytes(uri)
    assert proxy.requests == ["GET expired"]


@pytest.mark.parametrize("fault", ["503", "reset", "short", "flip"])
def test_a_read_that_keeps_failing_is_unreadable_at_the_deadline(
    uri: str, proxy: FaultyProxy, fault: str
) -> None:
    proxy.forever = fault
    start = time.monotonic()
    with pytest.raises(ObjectUnreachable, match="gave up after") as caught:
        storage.read_bytes(uri, deadline_s=2)
    assert time.monotonic() - start < 20
    assert caught.value.status == "unreadable"
    assert len(proxy.requests) >= 2


def test_a_read_from_a_silent_server_gives_up(
    uri: str, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.storage.s3_client.READ_TIMEOUT_S", 0.5)
    # The variable makes a new client. Its retries stay off all the same.
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "9")
    proxy.forever = "hang"
    start = time.monotonic()
    with pytest.raises(storage.ObjectUnreadable):
        storage.read_bytes(uri, deadline_s=0.5)
    assert time.monotonic() - start < 15
    assert len(proxy.requests) == 1


def test_an_access_denied_is_denied_at_once(uri: str, proxy: FaultyProxy) -> None:
    proxy.forever = "403"
    with pytest.raises(storage.ObjectDenied, match="AccessDenied on purpose") as caught:
        storage.read_bytes(uri)
    assert caught.value.status == "denied"
    assert proxy.requests == ["GET 403"]


def test_missing_and_changed_are_answers_and_not_tried_again(uri: str, proxy: FaultyProxy) -> None:
    with pytest.raises(storage.ObjectMissing):
        storage.read_bytes(uri + "x")
    with pytest.raises(storage.ObjectChanged):
        storage.read_bytes(uri, etag="0" * 32)
    assert proxy.requests == ["GET pass", "GET pass"]


def test_denied_access_is_a_user_error_on_the_driver(uri: str, proxy: FaultyProxy) -> None:
    proxy.forever = "403"
    for call in (storage.list_objects, storage.exists, storage.check_exclusive_create):
        with pytest.raises(UserError, match="access is denied"):
            call(uri)


def test_an_endpoint_without_a_server_is_named_and_the_same_command_continues(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as unserved:
        unserved.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{unserved.getsockname()[1]}")
        start = time.monotonic()
        with pytest.raises(JobError, match="AWS_ENDPOINT_URL; .* run the same command again"):
            storage.list_objects(bucket, deadline_s=0.5)
        assert time.monotonic() - start < 15
        with pytest.raises(storage.ObjectUnreadable):
            storage.read_bytes(f"{bucket}/a", deadline_s=0.5)


def test_missing_credentials_are_a_user_error(
    bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    empty = str(tmp_path_factory.mktemp("aws") / "none")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", empty)
    monkeypatch.setenv("AWS_CONFIG_FILE", empty)
    with pytest.raises(UserError, match="access is denied"):
        storage.list_objects(bucket)
    with pytest.raises(storage.ObjectDenied, match="credentials"):
        storage.read_bytes(f"{bucket}/a")


def test_credentials_that_come_later_are_used(
    uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The file of credentials did not exist at the first request, as on a node that has just started."""
    monkeypatch.setattr("pipeline.storage.s3_client.CLIENT_LASTS_S", 0.5)
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    key, secret = (os.environ[name] for name in names)
    for name in names:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    with pytest.raises(storage.ObjectDenied, match="credentials"):
        storage.read_bytes(uri)
    lines = ["[default]", f"aws_access_key_id = {key}", f"aws_secret_access_key = {secret}"]
    (tmp_path / "credentials").write_text("\n".join(lines))
    time.sleep(0.5)
    assert storage.read_bytes(uri) == DATA


@pytest.mark.parametrize("code", ["expired", "signature"])
def test_credentials_that_were_replaced_are_read_anew_once(
    uri: str, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    monkeypatch.setattr("pipeline.storage.s3_client.CLIENT_LASTS_S", 0.0)
    proxy.faults = [code]
    assert storage.read_bytes(uri) == DATA
    assert proxy.requests == [f"GET {code}", "GET pass"]
    monkeypatch.setattr("pipeline.storage.s3_client.CLIENT_LASTS_S", 100.0)
    proxy.forever = code
    with pytest.raises(storage.ObjectDenied):
        storage.read_bytes(uri)


def test_a_wrong_clock_is_denied_and_named(uri: str, proxy: FaultyProxy) -> None:
    proxy.forever = "skewed"
    with pytest.raises(storage.ObjectDenied, match="RequestTimeTooSkewed.*clock of this machine"):
        storage.read_bytes(uri)


def test_an_image_of_a_bucket_that_does_not_exist_is_unreadable(uri: str) -> None:
    """A list may name a wrong bucket, or a node may have another endpoint: --retry tries it again."""
    with pytest.raises(storage.ObjectMissing, match="NoSuchBucket") as caught:
        storage.read_bytes(uri.replace("s3://", "s3://no-"))
    assert caught.value.status == "unreadable"


def test_a_listing_survives_a_faulty_page(bucket: str, uri: str, proxy: FaultyProxy) -> None:
    proxy.faults = ["503", "reset", "short"]
    (info,) = storage.list_objects(bucket)
    assert (info.uri, info.size) == (uri, len(DATA))


@pytest.mark.parametrize("fault", ["503", "reset"])
def test_a_failed_write_is_tried_again(bucket: str, proxy: FaultyProxy, fault: str) -> None:
    proxy.faults = [fault, fault]
    storage.write_bytes(f"{bucket}/written", DATA)
    assert storage.read_bytes(f"{bucket}/written") == DATA


def test_a_create_whose_answer_is_lost_succeeds(bucket: str, proxy: FaultyProxy) -> None:
    proxy.faults = ["lost"]
    assert storage.create_bytes(f"{bucket}/shard", b"ours")
    assert proxy.requests[:2] == ["PUT lost", "PUT pass"]
    proxy.faults = ["lost"]
    assert not storage.create_bytes(f"{bucket}/shard", b"another's")
    assert storage.read_bytes(f"{bucket}/shard") == b"ours"


def test_a_store_that_ignores_the_condition_is_refused(bucket: str, proxy: FaultyProxy) -> None:
    proxy.dropped_headers = {"if-none-match"}
    with pytest.raises(UserError, match="If-None-Match"):
        storage.check_exclusive_create(bucket)


def test_the_driver_waits_as_long_as_a_worker(
    uri: str, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Listings, checks and small reads; a minute passes in a second here. The log says that the job waits."""
    sleep, monotonic = time.sleep, time.monotonic
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(seconds / 60))
    monkeypatch.setattr(time, "monotonic", lambda: 60 * monotonic())
    for call in (storage.list_objects, storage.exists, storage.read_bytes, storage.list_prefix):
        proxy.forever = "503"
        timer = threading.Timer(1.5, setattr, (proxy, "forever", None))  # after a minute and a half
        timer.start()
        assert call(uri)
        timer.join()
    assert caplog.text.count("no good answer for") == 4


def test_a_driver_that_gave_up_says_that_the_same_command_continues(
    uri: str, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.storage.listing.DEADLINE_S", 0.5)
    proxy.forever = "reset"
    with pytest.raises(JobError, match="gave up after .* run the same command again"):
        list(storage.iter_pages(uri, deadline_s=0.5))


def test_the_file_system_of_ray_waits_out_an_outage(bucket: str, proxy: FaultyProxy) -> None:
    """Ray Train writes checkpoints through it. s3fs knows resets and SlowDown, but no refused connection."""
    filesystem, path = storage.arrow_filesystem(f"{bucket}/train/model")
    for fault in ("503", "reset", "lost"):
        proxy.faults = [fault] * 7
        with filesystem.open_output_stream(path) as stream:
            stream.write(DATA)
        proxy.faults = [fault] * 7
        with filesystem.open_input_stream(path) as stream:
            assert stream.read() == DATA
    assert proxy.requests.count("PUT 503") == 7
    copy = pickle.loads(pickle.dumps(filesystem))
    assert copy.handler.fs.retries == 16


def test_access_denied_does_not_make_ray_wait(bucket: str, proxy: FaultyProxy) -> None:
    filesystem, path = storage.arrow_filesystem(f"{bucket}/train/model")
    proxy.requests.clear()
    proxy.forever = "403"
    stream = filesystem.open_output_stream(path)
    stream.write(DATA)
    with pytest.raises(PermissionError):
        stream.close()
    assert proxy.requests.count("PUT 403") == 1


@pytest.mark.parametrize("code", [500, 502, 503, 504, 507, 520])
def test_every_server_error_but_one_may_pass(code: int) -> None:
    assert isinstance(classify("uri", answer(code)), Transient)


def test_a_request_that_the_store_does_not_have_is_not_tried_again() -> None:
    assert isinstance(classify("uri", answer(501)), storage.ObjectUnreadable)


def answer(status: int) -> ClientError:
    response = {"Error": {"Code": "X"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(response, "GetObject")  # type: ignore[arg-type]
