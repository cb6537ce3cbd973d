"""What goes wrong between us and S3: a proxy before the real server (moto) breaks requests on purpose."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import pytest

from pipeline import storage
from pipeline.errors import UserError

DATA = bytes(range(256)) * 400  # 100 KB: more than one packet


class FaultyProxy(ThreadingHTTPServer):
    """Forwards to the server behind it; the next faults of `faults` each spoil one request, in order.

    ``503``, ``403``: an answer of that status. ``reset``: the connection breaks before an answer. ``lost``:
    the request is done, then the connection breaks. ``short``: half of the body, then the end. ``flip``: one
    byte of the body is another. ``hang``: no answer for as long as the client waits. ``pass``: nothing.
    """

    daemon_threads = True

    def __init__(self, behind: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind = urlsplit(behind).netloc
        self.faults: list[str] = []
        self.forever: str | None = None
        self.dropped_headers: set[str] = set()
        self.requests: list[str] = []

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Broken connections are what this server is for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyProxy

    def _serve(self) -> None:
        proxy = self.server
        body = self._body()
        fault = proxy.faults.pop(0) if proxy.faults else proxy.forever or "pass"
        proxy.requests.append(f"{self.command} {fault}")
        if fault in ("503", "403"):
            code = {"503": "SlowDown", "403": "AccessDenied"}[fault]
            text = f"<Error><Code>{code}</Code><Message>on purpose</Message></Error>".encode()
            self._answer(int(fault), {"Content-Type": "application/xml"}, text)
        elif fault == "hang":
            time.sleep(20)
            self._reset()
        elif fault == "reset":
            self._reset()
        else:
            status, headers, answer = self._forward(body)
            if fault == "lost":
                self._reset()
            else:
                self._answer(status, headers, answer, fault)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _serve

    def _body(self) -> bytes:
        if self.headers.get("Expect") == "100-continue":
            self.send_response_only(100)
            self.end_headers()
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        dropped = {"expect", "transfer-encoding", "content-length", *self.server.dropped_headers}
        headers = {k: v for k, v in self.headers.items() if k.lower() not in dropped}
        connection = http.client.HTTPConnection(self.server.behind)
        connection.request(self.command, self.path, body, headers)
        response = connection.getresponse()
        answer = response.read()
        connection.close()
        return response.status, dict(response.getheaders()), answer

    def _answer(self, status: int, headers: dict[str, str], body: bytes, fault: str = "") -> None:
        self.send_response_only(status)
        length = headers.get("Content-Length", len(body)) if self.command == "HEAD" else len(body)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault == "short":
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
        elif fault == "flip":
            self.wfile.write(body[:10] + bytes([body[10] ^ 1]) + body[11:])
        else:
            self.wfile.write(body)

    def _reset(self) -> None:
        # Linger 0: close sends RST instead of FIN.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def proxy(s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """The proxy as this process' S3 endpoint."""
    server = FaultyProxy(s3)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_address[1]}")
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def uri(bucket: str, proxy: FaultyProxy) -> str:
    """An object behind the proxy."""
    storage.write_bytes(f"{bucket}/object", DATA)
    proxy.requests.clear()
    return f"{bucket}/object"


@pytest.mark.parametrize("fault", ["503", "reset", "short", "flip"])
def test_a_read_that_fails_twice_succeeds(uri: str, proxy: FaultyProxy, fault: str) -> None:
    proxy.faults = [fault, fault]
    assert storage.read_bytes(uri) == DATA
    assert proxy.requests == [f"GET {fault}", f"GET {fault}", "GET pass"]


@pytest.mark.parametrize("fault", ["503", "reset", "short", "flip"])
def test_a_read_that_keeps_failing_is_unreadable_at_the_deadline(
    uri: str, proxy: FaultyProxy, fault: str
) -> None:
    proxy.forever = fault
    start = time.monotonic()
    with pytest.raises(storage.ObjectUnreadable, match="gave up after") as caught:
        storage.read_bytes(uri, deadline_s=2)
    assert time.monotonic() - start < 20
    assert caught.value.status == "unreadable"
    assert len(proxy.requests) >= 2


def test_a_silent_server_is_given_up(
    uri: str, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.storage.s3.READ_TIMEOUT_S", 0.5)
    monkeypatch.setenv(
        "AWS_MAX_ATTEMPTS", "9"
    )  # makes a new client; botocore's own retries stay off
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


def test_missing_and_changed_are_answers_not_faults(uri: str, proxy: FaultyProxy) -> None:
    with pytest.raises(storage.ObjectMissing):
        storage.read_bytes(uri + "x")
    with pytest.raises(storage.ObjectChanged):
        storage.read_bytes(uri, etag="0" * 32)
    assert proxy.requests == ["GET pass", "GET pass"]


def test_no_access_is_the_users_to_mend_on_the_driver(uri: str, proxy: FaultyProxy) -> None:
    proxy.forever = "403"
    for call in (storage.list_objects, storage.exists, storage.check_exclusive_create):
        with pytest.raises(UserError, match="no access"):
            call(uri)


def test_an_endpoint_that_nobody_serves_is_the_users_to_mend(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as unserved:
        unserved.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{unserved.getsockname()[1]}")
        start = time.monotonic()
        with pytest.raises(UserError, match="AWS_ENDPOINT_URL"):
            storage.list_objects(bucket, deadline_s=0.5)
        assert time.monotonic() - start < 15
        with pytest.raises(storage.ObjectUnreadable):
            storage.read_bytes(f"{bucket}/a", deadline_s=0.5)


def test_no_credentials_are_the_users_to_mend(
    bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    empty = str(tmp_path_factory.mktemp("aws") / "none")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", empty)
    monkeypatch.setenv("AWS_CONFIG_FILE", empty)
    with pytest.raises(UserError, match="no access"):
        storage.list_objects(bucket)
    with pytest.raises(storage.ObjectDenied, match="credentials"):
        storage.read_bytes(f"{bucket}/a")


def test_a_listing_survives_a_faulty_page(bucket: str, uri: str, proxy: FaultyProxy) -> None:
    proxy.faults = ["503", "reset", "short"]
    (info,) = storage.list_objects(bucket)
    assert (info.uri, info.size) == (uri, len(DATA))


@pytest.mark.parametrize("fault", ["503", "reset"])
def test_a_write_that_fails_is_done_again(bucket: str, proxy: FaultyProxy, fault: str) -> None:
    proxy.faults = [fault, fault]
    storage.write_bytes(f"{bucket}/written", DATA)
    assert storage.read_bytes(f"{bucket}/written") == DATA


def test_a_create_whose_answer_is_lost_is_ours(bucket: str, proxy: FaultyProxy) -> None:
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
