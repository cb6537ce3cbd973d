"""A proxy in front of an S3 server that breaks requests on purpose: in a given order, or by chance.

    FaultyProxy(url)                         faults = ["503", "pass", "lost"]: the next three requests
                                             forever = "403": every request after those
                                             rates = {"503": .2}: by chance, after `faults`

    troubles = [Trouble(fault="403", ...)]   requests of one client or of some keys; it comes first

Chance means a seed: the fault of a request depends on the seed, the request line and the number of equal
requests before it. It does not depend on the speed of several processes.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

FAULTS = {
    "503": "an answer of that status: SlowDown",
    "403": "an answer of that status: AccessDenied",
    "expired": "400 ExpiredToken, which is what S3 says of credentials that ran out",
    "signature": "403 SignatureDoesNotMatch",
    "skewed": "403 RequestTimeTooSkewed, for a client whose clock is wrong",
    "bucket": "404 NoSuchBucket",
    "missing": "404 NoSuchKey",
    "501": "501 NotImplemented",
    "reset": "the connection breaks before the request is done",
    "lost": "the request is done, then the connection breaks",
    "late": "the connection breaks; the request is done all the same, some seconds later",
    "short": "half of the body, then the end",
    "shortened": "half of the body under a Content-Length that fits it",
    "flip": "one bit of the body is another",
    "slow": "the body takes a second and a half",
    "hang": "no answer for as long as the client waits",
    "pass": "nothing",
}
_OF_BODIES = ("short", "shortened", "flip", "slow")
"""Faults that by chance happen to objects only. S3's protocol does not protect the bytes of a listing."""
LATE_S = 3.0
SLOW_S = 1.5
HANG_S = 20.0
_ERRORS = {
    "503": (503, "SlowDown"),
    "403": (403, "AccessDenied"),
    "expired": (400, "ExpiredToken"),
    "signature": (403, "SignatureDoesNotMatch"),
    "skewed": (403, "RequestTimeTooSkewed"),
    "bucket": (404, "NoSuchBucket"),
    "missing": (404, "NoSuchKey"),
    "501": (501, "NotImplemented"),
}
_CHECKSUMS = "x-amz-checksum-"


@dataclass(kw_only=True, slots=True)
class Trouble:
    """A fault of the next reads of objects by one client, or of some keys."""

    fault: str
    """One of `FAULTS`."""
    requests: int
    """The number of requests that it still breaks."""
    after: int = 0
    """The number of such requests that still pass before it begins."""
    access_key: str = ""
    """The AWS_ACCESS_KEY_ID of the client; empty: every client."""
    key: str = ""
    """A part of the path; empty: every path."""

    def concerns(self, method: str, path: str, authorization: str) -> bool:
        """Whether it may break this request."""
        signed = f"Credential={self.access_key}"
        return _gets_object(method, path) and self.key in path and signed in authorization


class FaultyProxy(ThreadingHTTPServer):
    """Forwards requests to a server, each with one of `FAULTS`.

    Args:
        behind: URL of the server.
        rates: share of the requests for each fault. Used if `faults` is empty and `forever` is None.
        seed: seed for `rates`.
        host: the address that it listens on.
    """

    daemon_threads = True
    request_queue_size = 128  # many clients may reconnect at the same time; the default is 5

    def __init__(
        self,
        behind: str,
        *,
        rates: Mapping[str, float] | None = None,
        seed: int = 0,
        host: str = "127.0.0.1",
    ) -> None:
        super().__init__((host, 0), _Handler)
        self.behind = urlsplit(behind).netloc
        self.faults: list[str] = []
        self.forever: str | None = None
        self.troubles: list[Trouble] = []
        """The first of them is the active one; it is removed when it has broken its last request."""
        self.troubled = 0
        """Number of requests that a trouble has broken until now."""
        self.rates = dict(rates or {})
        self.seed = seed
        self.dropped_headers: set[str] = set()
        """Headers to remove from requests, in lower case, like a store that does not support them."""
        self.without_checksums = False
        """True: answer as if objects were stored without a checksum."""
        self.requests: list[str] = []
        """Method and fault of each request until now."""
        self._seen: Counter[str] = Counter()
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """The value for AWS_ENDPOINT_URL."""
        return f"http://{self.server_address[0]!s}:{self.server_address[1]}"

    def counts(self) -> Counter[str]:
        """Count requests by fault, including those that passed."""
        return Counter(request.split()[1] for request in self.requests)

    def fault_of(self, method: str, path: str, authorization: str) -> str:
        """Choose the fault of this request: of the active trouble, or `next_fault`."""
        with self._lock:
            trouble = self.troubles[0] if self.troubles else None
            if trouble and trouble.concerns(method, path, authorization):
                if trouble.after > 0:
                    trouble.after -= 1
                else:
                    trouble.requests -= 1
                    if trouble.requests <= 0:
                        self.troubles.pop(0)
                    self.troubled += 1
                    self.requests.append(f"{method} {trouble.fault}")
                    return trouble.fault
        return self.next_fault(method, path)

    def next_fault(self, method: str, path: str) -> str:
        """Choose the fault of this request, and count it."""
        with self._lock:
            if self.faults:
                fault = self.faults.pop(0)
            else:
                fault = self.forever or self._by_chance(method, path)
            self.requests.append(f"{method} {fault}")
        return fault

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log nothing: this server breaks connections on purpose."""

    def _by_chance(self, method: str, path: str) -> str:
        request = f"{method} {path}"
        self._seen[request] += 1
        text = f"{self.seed} {self._seen[request]} {request}"
        chance = random.Random(hashlib.sha256(text.encode()).digest()).random()
        for fault, rate in self.rates.items():
            if chance < rate:
                applies = fault not in _OF_BODIES or _gets_object(method, path)
                return fault if applies else "pass"
            chance -= rate
        return "pass"


@contextlib.contextmanager
def serving(proxy: FaultyProxy) -> Iterator[FaultyProxy]:
    """Run the proxy in a thread of this process."""
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyProxy

    def _serve(self) -> None:
        body = self._body()
        authorization = self.headers.get("Authorization", "")
        fault = self.server.fault_of(self.command, self.path, authorization)
        if fault in _ERRORS:
            status, code = _ERRORS[fault]
            text = f"<Error><Code>{code}</Code><Message>on purpose</Message></Error>".encode()
            self._answer(status, {"Content-Type": "application/xml"}, text)
        elif fault in ("reset", "hang"):
            time.sleep(HANG_S if fault == "hang" else 0)
            self._reset()
        elif fault == "late":
            self._reset()
            time.sleep(LATE_S)
            self._forward(body)
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
        answered = dict(response.getheaders())
        if self.server.without_checksums:
            answered = {k: v for k, v in answered.items() if not k.lower().startswith(_CHECKSUMS)}
        return response.status, answered, answer

    def _answer(self, status: int, headers: dict[str, str], body: bytes, fault: str = "") -> None:
        if fault == "shortened":
            body = body[: len(body) // 2]
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
            place = (
                len(self.server.requests) * 1009 % len(body)
            )  # another byte than at the last request
            self.wfile.write(body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :])
        elif fault == "slow":
            step = len(body) // 10 + 1
            for start in range(0, len(body), step):
                time.sleep(SLOW_S / 10)
                self.wfile.write(body[start : start + step])
        else:
            self.wfile.write(body)

    def _reset(self) -> None:
        # With linger 0, close sends RST instead of FIN.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _gets_object(method: str, path: str) -> bool:
    bucket_and_key, _, query = path.partition("?")
    return method == "GET" and "list-type" not in query and bucket_and_key.count("/") > 1
