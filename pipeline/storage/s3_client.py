"""The client for S3: one a process, with its credentials and its retries.

s3fs provides the session, the event loop and the credentials from the environment. Requests go to its client
directly, because the methods of s3fs parse keys (``?versionId=``), cache listings and turn every error into
OSError. A process has one client, and any thread may use it: requests run on the event loop of fsspec. Only
this package repeats requests. The retries of botocore and s3fs are off, because they would multiply, and the
time until an error would be unknown.
"""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import s3fs
from botocore import exceptions as boto

from pipeline.errors import ObjectDenied, ObjectUnreadable, one_line
from pipeline.storage.retry import Outage, Transient, retry
from pipeline.storage.s3_answers import (
    NO_CREDENTIALS,
    TRANSIENT,
    classify,
    may_have_new_credentials,
)
from pipeline.storage.s3_settings import bucket_and_key, requester_pays, unsigned

CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 30
"""Longest time without any byte from the server. The whole transfer may take longer."""
CLIENT_LASTS_S = 5.0
"""Seconds after which a client is replaced at the earliest, if its credentials are refused."""
_CONNECTIONS = 64

Result = TypeVar("Result")


class PatientFileSystem(s3fs.S3FileSystem):  # type: ignore[misc]
    """An s3fs file system that waits out an outage as long as this package does.

    s3fs sleeps min(.1 * 1.7^n, 15) s after attempt n: 119 s in all. Ray's checkpoints go through it.
    """

    retries = 16


def _may_pass(error: Exception) -> bool:
    """Whether s3fs tries again after this error, in addition to those that it knows."""
    if isinstance(error, boto.ClientError):
        return isinstance(classify("", error), Transient)
    return isinstance(error, TRANSIENT)


s3fs.core.set_custom_error_handler(_may_pass)


def filesystem(*, anonymous: bool) -> PatientFileSystem:
    """Make a file system with the environment of this process and without cached listings.

    botocore's retries are off. The pickle of the file system holds no credentials.
    """
    return PatientFileSystem(
        anon=anonymous,
        requester_pays=requester_pays(),
        use_listings_cache=False,
        skip_instance_cache=True,  # fsspec's instance cache would make one client for each thread
        config_kwargs={
            "connect_timeout": CONNECT_TIMEOUT_S,
            "read_timeout": READ_TIMEOUT_S,
            "max_pool_connections": _CONNECTIONS,
            "retries": {"total_max_attempts": 1, "mode": "standard"},
        },
    )


class S3Client:
    """Sends requests. Paths are ``bucket/key``; `root` precedes them in errors."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._make_clients()
        self.payer = {"RequestPayer": "requester"} if requester_pays() else {}
        """Part of each request but `head_bucket`."""
        self._outage = Outage()

    def call(self, path: str, deadline_s: float, operation: str, **request: Any) -> dict[str, Any]:
        """Send one request, such as `head_object`, and return its answer. Raises as `retry`."""
        payer = {} if operation == "head_bucket" else self.payer  # the only one that takes none

        async def call(client: Any) -> dict[str, Any]:
            response: dict[str, Any] = await getattr(client, operation)(**request, **payer)
            return response

        return self.retry(path, deadline_s, call)

    def retry(
        self, path: str, deadline_s: float, call: Callable[[Any], Awaitable[Result]]
    ) -> Result:
        """Pass the client to `call`; again after an error that may pass, until the deadline.

        Raises:
            StorageError: the kind that fits the last error.
        """
        uri = self._root + path
        signed = not unsigned(bucket_and_key(path)[0])
        attempt = functools.partial(self._attempt, uri, signed, call)
        return retry(attempt, uri, deadline_s, self._outage)

    def _attempt(self, uri: str, signed: bool, call: Callable[[Any], Awaitable[Result]]) -> Result:
        fs = self.signing if signed else self._anonymous  # each time: an attempt may replace them

        async def request() -> Result:
            return await call(await fs.set_session())

        try:
            return asyncio.run_coroutine_threadsafe(request(), fs.loop).result()
        except boto.ClientError as error:
            if may_have_new_credentials(error) and self._renew_client(fs):
                raise Transient(one_line(error)) from error
            raise classify(uri, error) from error
        except NO_CREDENTIALS as error:
            if self._renew_client(fs):
                raise Transient(one_line(error)) from error
            raise ObjectDenied(f"{uri}: {one_line(error)}") from error
        except TRANSIENT as error:
            raise Transient(one_line(error)) from error
        except boto.BotoCoreError as error:  # e.g. an invalid bucket name or setting
            raise ObjectUnreadable(f"{uri}: {one_line(error)}") from error

    def _make_clients(self) -> None:
        self.signing, self._anonymous = (
            filesystem(anonymous=anonymous) for anonymous in (False, True)
        )
        self._made_at = time.monotonic()

    def _renew_client(self, used: s3fs.S3FileSystem) -> bool:
        """Replace the client that was used, unless it is new. Return whether to try again.

        A client keeps the credentials of its first request. They may have been missing then, or they may have
        been replaced since. A client that does not sign has none.
        """
        with self._lock:
            if used is self._anonymous:
                return False
            if self.signing is used:
                if time.monotonic() - self._made_at < CLIENT_LASTS_S:
                    return False
                self._make_clients()
            return True
