"""A web server on loopback for tests. It answers as its pages say, and notes each request."""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class Page:
    """What an address answers."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    head_status: int | None = None
    """The status of HEAD; None: as that of GET."""
    head_length: int | None = None
    """The Content-Length of HEAD, where it is another."""
    length: int | None = -1
    """The Content-Length of GET; -1: the true one; None: none, the body ends with the connection."""
    chunked: bool = False


@dataclass
class Site:
    """Pages by path, and the requests that came."""

    pages: dict[str, Page]
    address: str = ""
    requests: list[str] = field(default_factory=list)


@contextlib.contextmanager
def serving(pages: dict[str, Page], host: str = "127.0.0.1") -> Iterator[Site]:
    """Serve the pages on a free port."""
    site = Site(pages)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Write nothing."""

        def answer(self) -> None:
            head = self.command == "HEAD"
            site.requests.append(f"{self.command} {self.path}")
            page = site.pages.get(self.path, Page(status=404))
            status = page.head_status if head and page.head_status else page.status
            self.send_response(status)
            for name, value in page.headers.items():
                self.send_header(name, value)
            length = page.head_length if head and page.head_length is not None else page.length
            if page.chunked:
                self.send_header("Transfer-Encoding", "chunked")
            elif length is not None:
                self.send_header("Content-Length", str(len(page.body) if length < 0 else length))
            if length is None or length > len(page.body):
                self.send_header("Connection", "close")
                self.close_connection = True
            self.end_headers()
            if head:
                return
            if page.chunked:
                self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(page.body), page.body))
            else:
                self.wfile.write(page.body)

        do_GET = do_HEAD = answer

    with http.server.ThreadingHTTPServer((host, 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        site.address = f"http://{host}:{server.server_port}"
        yield site
        server.shutdown()
