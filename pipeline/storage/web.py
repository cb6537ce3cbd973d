"""Reads web addresses (http and https), with one request for each question.

fsspec's driver asks for the headers before and after each read, needs a Content-Length, and takes every
refusal for a missing page. Here one HEAD gives size and version, and one GET gives the bytes with their
version. fsspec keeps the session and the event loop.

A server need not state what an object store states. The version is the ETag, else Last-Modified, else the
size, else `NO_VERSION`.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import yarl

from pipeline.errors import (
    ObjectChanged,
    ObjectDenied,
    ObjectMissing,
    ObjectTooLarge,
    ObjectUnreadable,
    StorageError,
    one_line,
)
from pipeline.storage.access import Access, is_public
from pipeline.storage.other import NO_VERSION, FsspecStore, filesystem
from pipeline.storage.retry import Outage, Transient, retry
from pipeline.storage.uris import ObjectInfo

CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 30
"""Longest time without any byte from the server. The whole transfer may take longer."""
MIN_BYTES_PER_S = 64 * 1024
"""If a body arrives more slowly than this on average, the attempt has failed."""
DEADLINE_S = 60.0
"""No attempt for an address starts later than this after the first. A list names many servers, so a server
that gives no answer must not hold up the others."""
_CONNECTIONS = 64
_MOST_CONNECTS = 3
"""Attempts to connect to a host. A host that does not exist gives the same answer each time."""
_CHUNK_BYTES = 1 << 20
_UNKNOWN_LENGTH = 2**30
"""Bytes for which a body without a stated length and without a limit gets time."""
_ANSWERS_HEAD = (404, 410, 408, 425, 429, 500, 502, 503, 504)
"""Refusals that hold for GET too. Other refusals of HEAD are followed by a GET: some servers refuse each
HEAD, and a signed address is often signed for GET only."""
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
_DENIED = (401, 402, 403, 407, 451)
_MISSING = (404, 410)
_NOT_PUBLIC = "is not an address of the public internet"
_HINT = "give --allow-private-hosts if it may be read"

Result = TypeVar("Result")
Request = Callable[[aiohttp.ClientSession], Awaitable[Result]]


class WebStore(FsspecStore):
    """The store for http and https. A path is what follows ``https://``, with its query."""

    denied_advice = unreachable_advice = "Check the address and the network"

    def __init__(self, scheme: str, root: str, access: Access) -> None:
        self._root = root
        self._fs = filesystem(scheme, get_client=partial(_session, access=access))
        self._outages: dict[str, Outage] = {}

    def stat(self, path: str, *, deadline_s: float) -> ObjectInfo:
        """Return size and version by a HEAD request; by a GET without its body if HEAD is refused."""
        address = self._address(path)

        async def head(session: aiohttp.ClientSession) -> ObjectInfo:
            async with session.head(address, allow_redirects=True) as answer:
                if answer.ok or answer.status in _ANSWERS_HEAD:
                    return self._info_of(path, answer)
            async with session.get(address) as answer:
                try:
                    return self._info_of(path, answer)
                finally:
                    answer.close()  # the body is not read

        return self._retry(path, deadline_s, head)

    def iter_pages(
        self, prefix: str, *, deadline_s: float, ordered: bool = False
    ) -> Iterator[list[ObjectInfo]]:
        """Raise ObjectMissing: a web server gives no listing. Raise another error if it does not answer."""
        with suppress(ObjectMissing):
            self.stat(prefix, deadline_s=deadline_s)
        raise ObjectMissing(
            f"{self._root}{prefix.rstrip('/')}: no such page, and a web server gives no listing; "
            "give a list of addresses"
        )

    def read(
        self, path: str, *, etag: str | None, max_bytes: int | None, deadline_s: float
    ) -> bytes:
        """Read a page by one GET. Its version is compared with `etag`."""
        uri, address = self._root + path, self._address(path)

        async def get(session: aiohttp.ClientSession) -> bytes:
            async with session.get(address) as answer:
                current = self._info_of(path, answer)
                if etag is not None and not _same(etag, current):
                    raise ObjectChanged(
                        f"{uri}: its version is {current.etag}, but it was {etag} when it was listed"
                    )
                data = bytearray()
                async for chunk in _body(answer, current.size, max_bytes):
                    data += chunk
                    if max_bytes is not None and len(data) > max_bytes:
                        answer.close()
                        raise ObjectTooLarge(f"{uri}: has more bytes than the limit of {max_bytes}")
                return bytes(data)

        return self._retry(path, deadline_s, get)

    def read_range(
        self, path: str, *, first: int, length: int, etag: str | None, deadline_s: float
    ) -> bytes:
        """Read a part of a page by one GET with Range. Its version is compared with `etag`."""
        uri, address = self._root + path, self._address(path)
        wanted = {"Range": f"bytes={first}-{first + length - 1}"}

        async def get(session: aiohttp.ClientSession) -> bytes:
            async with session.get(address, headers=wanted) as answer:
                if answer.status != 206:
                    self._info_of(path, answer)
                    answer.close()
                    raise ObjectUnreadable(
                        f"{uri}: the server gives no parts, so archives there cannot be read"
                    )
                current = _part_info(uri, answer)
                if etag is not None and not _same(etag, current):
                    raise ObjectChanged(f"{uri}: its version is {current.etag}, but it was {etag}")
                data = bytearray()
                async for chunk in _body(answer, length, None):
                    data += chunk
                if len(data) != length:
                    raise Transient(f"only {len(data)} of {length} bytes arrived")
                return bytes(data)

        return self._retry(path, deadline_s, get)

    def download(self, path: str, local: Path, *, deadline_s: float) -> None:
        """Download a page of any size into a file."""
        address = self._address(path)

        async def get(session: aiohttp.ClientSession) -> None:
            async with session.get(address) as answer:
                size = self._info_of(path, answer).size
                with local.open("wb") as file:
                    async for chunk in _body(answer, size, None):
                        file.write(chunk)

        self._retry(path, deadline_s, get)

    def _address(self, path: str) -> yarl.URL:
        """Return the address to ask for. Plain ASCII is sent byte for byte, because it may be signed."""
        uri = self._root + path
        try:
            address = yarl.URL(uri, encoded=re.fullmatch(r"[!-~]+", uri) is not None)
            if address.host:
                return address
        except ValueError as error:
            raise ObjectUnreadable(f"{uri}: is not a web address ({one_line(error)})") from error
        raise ObjectUnreadable(f"{uri}: is not a web address (it names no host)")

    def _info_of(self, path: str, answer: aiohttp.ClientResponse) -> ObjectInfo:
        """Return size and version as an answer states them. Raises the error that its status means."""
        uri, status = self._root + path, answer.status
        if not answer.ok or status >= 300:
            cause = f"{answer.method} {status} {answer.reason or ''}".strip()
            if status in _TRANSIENT:
                raise Transient(cause)
            kinds: dict[int, type[StorageError]] = dict.fromkeys(_MISSING, ObjectMissing)
            kinds |= dict.fromkeys(_DENIED, ObjectDenied)
            raise kinds.get(status, ObjectUnreadable)(f"{uri}: {cause}")
        if status == 206:
            raise ObjectUnreadable(
                f"{uri}: the server gives only a part (206), without being asked"
            )
        headers = answer.headers
        size = answer.content_length
        if "Content-Encoding" in headers or (answer.method == "HEAD" and size == 0):
            size = None  # the length of the compressed body, or of the empty one
        version = headers.get("ETag", "").strip().strip('"') or headers.get("Last-Modified", "")
        return ObjectInfo(uri, version or (NO_VERSION if size is None else _version_by(size)), size)

    def _retry(self, path: str, deadline_s: float, request: Request[Result]) -> Result:
        uri = self._root + path
        connects = 0

        async def call() -> Result:
            session: aiohttp.ClientSession = await self._fs.set_session()
            return await request(session)

        def attempt() -> Result:
            nonlocal connects
            try:
                return asyncio.run_coroutine_threadsafe(call(), self._fs.loop).result()
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
                connects += 1
                raise _no_connection(uri, error, last=connects == _MOST_CONNECTS) from error
            except aiohttp.TooManyRedirects as error:
                raise ObjectUnreadable(f"{uri}: redirects without an end") from error
            except aiohttp.NonHttpUrlClientError as error:
                raise ObjectUnreadable(
                    f"{uri}: redirects to {one_line(error)}, which is no web address"
                ) from error
            except (aiohttp.InvalidURL, ValueError) as error:
                raise ObjectUnreadable(
                    f"{uri}: {type(error).__name__}: {one_line(error)}"
                ) from error
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                raise Transient(f"{type(error).__name__}: {one_line(error)}") from error

        outage = self._outages.setdefault(path.partition("/")[0], Outage())
        return retry(attempt, uri, min(deadline_s, DEADLINE_S), outage)


def _part_info(uri: str, answer: aiohttp.ClientResponse) -> ObjectInfo:
    """Return size and version of a page as the answer with a part of it states them."""
    headers = answer.headers
    total = headers.get("Content-Range", "").rpartition("/")[2]
    size = int(total) if total.isdecimal() else None
    version = headers.get("ETag", "").strip().strip('"') or headers.get("Last-Modified", "")
    return ObjectInfo(uri, version or (NO_VERSION if size is None else _version_by(size)), size)


def _same(etag: str, current: ObjectInfo) -> bool:
    """Whether an answer may have the version `etag`. Weak and strong ETags of one text are the same.

    A server may state less in the answer to HEAD than in that to GET. A version that is only a size, or none,
    is then what HEAD gave.
    """
    by_size = None if current.size is None else _version_by(current.size)
    return etag == NO_VERSION or etag.removeprefix('W/"') in (
        current.etag.removeprefix('W/"'),
        by_size,
    )


def _version_by(size: int) -> str:
    return f"{size:x}"


async def _body(answer: aiohttp.ClientResponse, size: int | None, max_bytes: int | None) -> Any:
    """Yield the bytes of an answer. Refuse a body that is too large before it is read."""
    if max_bytes is not None and size is not None and size > max_bytes:
        answer.close()
        raise ObjectTooLarge(f"{answer.url}: has {size} bytes, more than the limit of {max_bytes}")
    most = size or max_bytes or _UNKNOWN_LENGTH
    async with asyncio.timeout(READ_TIMEOUT_S + most / MIN_BYTES_PER_S):
        async for chunk in answer.content.iter_chunked(_CHUNK_BYTES):
            yield chunk


def _no_connection(
    uri: str, error: aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError, *, last: bool
) -> StorageError | Transient:
    """Return the exception to raise for a host that was not reached."""
    cause, socket_error = one_line(error), getattr(error, "os_error", error)
    if _NOT_PUBLIC in str(socket_error):
        return ObjectDenied(f"{uri}: {one_line(socket_error)}; {_HINT}")
    unknown = isinstance(error, aiohttp.ClientConnectorDNSError) and (
        socket_error.errno == socket.EAI_NONAME
    )
    if last or unknown or isinstance(error, aiohttp.ClientSSLError):
        return ObjectUnreadable(f"{uri}: {cause}")
    return Transient(cause)


async def _session(*, loop: asyncio.AbstractEventLoop, access: Access) -> aiohttp.ClientSession:
    """Make a session that enforces the limits at each connection and each redirect."""
    redirects = aiohttp.TraceConfig()
    redirects.on_request_redirect.append(partial(_check_redirect, access))
    return aiohttp.ClientSession(
        loop=loop,
        connector=aiohttp.TCPConnector(
            limit=_CONNECTIONS, socket_factory=None if access.private_hosts else _public_socket
        ),
        timeout=aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=READ_TIMEOUT_S
        ),
        headers={"Accept-Encoding": "identity"},
        cookie_jar=aiohttp.DummyCookieJar(),
        trace_configs=[redirects],
    )


async def _check_redirect(
    access: Access, session: Any, context: Any, redirect: aiohttp.TraceRequestRedirectParams
) -> None:
    location = redirect.response.headers.get("Location", "")
    if not access.http and redirect.url.join(yarl.URL(location)).scheme == "http":
        redirect.response.close()
        raise ObjectDenied(
            f"{redirect.url}: redirects to {location}, which is not encrypted; "
            "give --allow-http if it may be read"
        )


def _public_socket(address: Any) -> socket.socket:
    """Make a socket for one address. aiohttp calls this with what DNS gave, before each connection."""
    family, kind, protocol, _, where = address
    if not is_public(where[0]):
        raise OSError(f"{where[0]} {_NOT_PUBLIC}")
    return socket.socket(family, kind, protocol)
