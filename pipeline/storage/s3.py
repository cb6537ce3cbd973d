"""S3, and stores with the same interface, through the client inside s3fs.

s3fs provides the session, the event loop and the credentials from the environment. Requests go to its client
directly, because the methods of s3fs parse keys (``?versionId=``), cache listings and turn every error into
OSError. A process has one client, and any thread may use it: requests run on the event loop of fsspec. Only
this package repeats requests. The retries of botocore and s3fs are off, because they would multiply, and the
time until an error would be unknown.
"""

from __future__ import annotations

import asyncio
import functools
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pyarrow.fs as pafs
import s3fs
from botocore import exceptions as boto

from pipeline.errors import (
    ObjectChanged,
    ObjectDenied,
    ObjectMissing,
    ObjectTooLarge,
    ObjectUnreadable,
    one_line,
)
from pipeline.runtime.prefetch import in_threads
from pipeline.storage.ranges import LISTERS, Page, iter_pages
from pipeline.storage.retry import DEADLINE_S, Outage, Transient, retry
from pipeline.storage.s3_answers import NO_CREDENTIALS, TRANSIENT, BodyCheck, classify
from pipeline.storage.uris import ObjectInfo

CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 30
"""Longest time without any byte from the server. The whole transfer may take longer."""
MIN_BYTES_PER_S = 64 * 1024
"""If a body arrives more slowly than this on average, the attempt has failed."""
_CONNECTIONS = 64
PART_BYTES = 32 * 2**20
"""Size of a part of a multipart upload, and of the largest file that is sent in one request. S3 accepts parts
of 5 MiB to 5 GiB."""
_MOST_PARTS = 9_000  # S3 accepts 10,000 parts, and 5 TiB in total
_PARTS_AT_ONCE = 4

Result = TypeVar("Result")


def filesystem(**config: Any) -> s3fs.S3FileSystem:
    """Make an s3fs file system with the environment of this process and without cached listings.

    Its pickle holds no credentials.
    """
    return s3fs.S3FileSystem(
        use_listings_cache=False,
        skip_instance_cache=True,  # fsspec's instance cache would make one client for each thread
        config_kwargs={
            "connect_timeout": CONNECT_TIMEOUT_S,
            "read_timeout": READ_TIMEOUT_S,
            "max_pool_connections": _CONNECTIONS,
            **config,
        },
    )


class S3Store:
    """The store for S3. Paths are ``bucket/key``, the key byte for byte; `root` precedes them in URIs."""

    lists_in_order = True
    denied_advice = "Check AWS_ACCESS_KEY_ID and the other credentials, or the permissions"
    unreachable_advice = "Check the URI and AWS_ENDPOINT_URL"

    def __init__(self, root: str) -> None:
        self._root = root
        self._fs = filesystem(retries={"total_max_attempts": 1, "mode": "standard"})
        self._outage = Outage()
        self._body_check = BodyCheck()

    def stat(self, path: str, *, deadline_s: float) -> ObjectInfo:
        """Return size and ETag by a HEAD request."""
        bucket, key = _split(path)
        head = self._call(path, deadline_s, "head_object", Bucket=bucket, Key=key)
        return ObjectInfo(self._root + path, head["ETag"].strip('"'), head["ContentLength"])

    def iter_pages(
        self, prefix: str, *, deadline_s: float, ordered: bool = False
    ) -> Iterator[list[ObjectInfo]]:
        """Yield every object whose key starts with the prefix; each page has its own retries.

        A list of several pages is read with many requests at once, in any order, unless `ordered`.
        """
        bucket, start = _split(prefix)

        def list_page(after: str) -> Page:
            request = {"Bucket": bucket, "Prefix": start}
            if after:
                request["StartAfter"] = start + after
            page = self._call(prefix, deadline_s, "list_objects_v2", **request)
            objects = [
                (
                    entry["Key"].removeprefix(start),
                    ObjectInfo(
                        f"{self._root}{bucket}/{entry['Key']}",
                        entry["ETag"].strip('"'),
                        entry["Size"],
                    ),
                )
                for entry in page.get("Contents", ())
            ]
            return objects, bool(page.get("IsTruncated"))

        first, more = list_page("")
        yield [info for _, info in first]
        if more:
            yield from iter_pages(list_page, first[-1][0], 1 if ordered else LISTERS)

    def check_bucket(self, path: str, *, deadline_s: float) -> None:
        """Raise ObjectMissing if the bucket does not exist. HEAD on a key cannot tell."""
        bucket, _ = _split(path)
        self._call(bucket, deadline_s, "head_bucket", Bucket=bucket)

    def arrow_filesystem(self) -> pafs.FileSystem:
        return pafs.PyFileSystem(pafs.FSSpecHandler(filesystem()))

    def read(
        self, path: str, *, etag: str | None, max_bytes: int | None, deadline_s: float
    ) -> bytes:
        """Read an object by GET with If-Match.

        The length and the checksum are verified. Without a checksum, the MD5 is compared with the ETag, which
        is the MD5 for most objects.
        """
        bucket, key = _split(path)
        request = {"Bucket": bucket, "Key": key}
        if etag is not None:
            request["IfMatch"] = f'"{etag}"'
        digests: Counter[str] = Counter()

        async def get(client: Any) -> bytes:
            response = await client.get_object(**request)
            length: int = response["ContentLength"]
            async with response["Body"] as body:
                if max_bytes is not None and length > max_bytes:
                    raise ObjectTooLarge(
                        f"{self._root}{path}: has {length} bytes, more than the limit of {max_bytes}"
                    )
                async with asyncio.timeout(READ_TIMEOUT_S + length / MIN_BYTES_PER_S):
                    data: bytes = await body.read()
            if len(data) != length:
                raise Transient(f"only {len(data)} of {length} bytes arrived")
            current: str = response["ETag"].strip('"')
            if etag not in (None, current):  # the store, or a cache before it, ignores If-Match
                raise ObjectChanged(
                    f"{self._root}{path}: its ETag is {current}, but it was {etag} when it was listed"
                )
            self._body_check.check(response, data, digests)
            return data

        return self._retry(path, deadline_s, get)

    def download(self, path: str, local: Path, *, deadline_s: float) -> None:
        """Download an object of any size into a file. The length is verified.

        The time limit grows with the size.
        """
        bucket, key = _split(path)

        async def get(client: Any) -> None:
            response = await client.get_object(Bucket=bucket, Key=key)
            length: int = response["ContentLength"]
            async with response["Body"] as body:
                async with asyncio.timeout(READ_TIMEOUT_S + length / MIN_BYTES_PER_S):
                    with local.open("wb") as file:
                        async for chunk in body.iter_chunks(1 << 20):
                            file.write(chunk)
            if local.stat().st_size != length:
                raise Transient(f"only {local.stat().st_size} of {length} bytes arrived")

        self._retry(path, deadline_s, get)

    def write(self, path: str, data: bytes) -> None:
        """Write an object by PUT; an object of this name is replaced."""
        bucket, key = _split(path)
        self._call(path, DEADLINE_S, "put_object", Bucket=bucket, Key=key, Body=data)

    def create(self, path: str, data: bytes) -> bool:
        """Create an object by PUT with ``If-None-Match: *``; return False if the key is taken.

        An earlier attempt of the same call, whose answer was lost, may have taken it.
        """
        bucket, key = _split(path)
        try:
            self._call(
                path, DEADLINE_S, "put_object", Bucket=bucket, Key=key, Body=data, IfNoneMatch="*"
            )
        except ObjectChanged:  # 412
            return False
        return True

    def upload(self, local: Path, path: str) -> None:
        """Upload a file; a large one in parts, which are invisible until the last request.

        If the process is killed before that, the parts stay and cost storage, until the bucket's lifecycle
        rule (AbortIncompleteMultipartUpload) deletes them.
        """
        size = local.stat().st_size
        if size <= PART_BYTES:
            self.write(path, local.read_bytes())
            return
        bucket, key = _split(path)
        target = {"Bucket": bucket, "Key": key}
        upload = self._call(path, DEADLINE_S, "create_multipart_upload", **target)["UploadId"]
        step = max(PART_BYTES, -(-size // _MOST_PARTS))

        def put(number: int) -> dict[str, Any]:
            with local.open("rb") as file:
                file.seek((number - 1) * step)
                part = {"PartNumber": number, "UploadId": upload, "Body": file.read(step)}
            answer = self._call(path, DEADLINE_S, "upload_part", **target, **part)
            return {"ETag": answer["ETag"], "PartNumber": number}

        try:
            parts = in_threads(put, range(1, -(-size // step) + 1), threads=_PARTS_AT_ONCE)
            done = {"UploadId": upload, "MultipartUpload": {"Parts": parts}}
            self._complete(path, size, **target, **done)
        except BaseException:
            self._call(path, DEADLINE_S, "abort_multipart_upload", **target, UploadId=upload)
            raise

    def _complete(self, path: str, size: int, **request: Any) -> None:
        try:
            self._call(path, DEADLINE_S, "complete_multipart_upload", **request)
        except ObjectMissing:
            # The upload no longer exists: the answer to a first completion was lost, and this is the second.
            if self.stat(path, deadline_s=DEADLINE_S).size != size:
                raise

    def _call(self, path: str, deadline_s: float, operation: str, **request: Any) -> dict[str, Any]:
        async def call(client: Any) -> dict[str, Any]:
            response: dict[str, Any] = await getattr(client, operation)(**request)
            return response

        return self._retry(path, deadline_s, call)

    def _retry(
        self, path: str, deadline_s: float, call: Callable[[Any], Awaitable[Result]]
    ) -> Result:
        uri = self._root + path
        return retry(functools.partial(self._attempt, uri, call), uri, deadline_s, self._outage)

    def _attempt(self, uri: str, call: Callable[[Any], Awaitable[Result]]) -> Result:
        async def request() -> Result:
            return await call(await self._fs.set_session())

        try:
            return asyncio.run_coroutine_threadsafe(request(), self._fs.loop).result()
        except boto.ClientError as error:
            raise classify(uri, error) from error
        except NO_CREDENTIALS as error:
            raise ObjectDenied(f"{uri}: {one_line(error)}") from error
        except TRANSIENT as error:
            raise Transient(one_line(error)) from error
        except boto.BotoCoreError as error:  # e.g. an invalid bucket name or setting
            raise ObjectUnreadable(f"{uri}: {one_line(error)}") from error


def _split(path: str) -> tuple[str, str]:
    bucket, _, key = path.partition("/")
    return bucket, key
