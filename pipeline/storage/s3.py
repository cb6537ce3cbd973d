"""S3 and what speaks like it, through the client inside s3fs.

s3fs gives the session, the event loop and the environment's credentials; requests go to its client directly,
because s3fs' own methods parse keys (``?versionId=``), cache listings and fold every error into OSError.
One client a process, used from any thread: requests run on fsspec's loop. Retries are ours alone (botocore's
and s3fs' would multiply), so that the time until an error is known.
"""

from __future__ import annotations

import asyncio
import functools
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

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
"""Longest silence of the server, not the longest transfer."""
MIN_BYTES_PER_S = 64 * 1024
"""A body that comes slower than this, on average, is a failed attempt."""
_CONNECTIONS = 64
PART_BYTES = 32 * 2**20
"""Of a multipart upload, and the largest file that is put in one request; S3 takes 5 MiB to 5 GiB."""
_MOST_PARTS = 9_000  # S3 takes 10,000, and 5 TiB in all
_PARTS_AT_ONCE = 4

Result = TypeVar("Result")


def filesystem(**config: Any) -> s3fs.S3FileSystem:
    """s3fs with this process' environment and no cached listings; pickles without credentials."""
    return s3fs.S3FileSystem(
        use_listings_cache=False,
        skip_instance_cache=True,  # fsspec's cache makes one client a thread
        config_kwargs={
            "connect_timeout": CONNECT_TIMEOUT_S,
            "read_timeout": READ_TIMEOUT_S,
            "max_pool_connections": _CONNECTIONS,
            **config,
        },
    )


class S3Store:
    """Paths are ``bucket/key``, the key byte for byte; `root` stands before them in URIs."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._fs = filesystem(retries={"total_max_attempts": 1, "mode": "standard"})
        self._outage = Outage()
        self._body_check = BodyCheck()

    def stat(self, path: str, *, deadline_s: float) -> ObjectInfo:
        """HEAD: size and ETag."""
        bucket, key = _split(path)
        head = self._call(path, deadline_s, "head_object", Bucket=bucket, Key=key)
        return ObjectInfo(self._root + path, head["ETag"].strip('"'), head["ContentLength"])

    def iter_pages(
        self, prefix: str, *, deadline_s: float, ordered: bool = False
    ) -> Iterator[list[ObjectInfo]]:
        """Every object whose key starts with the prefix, each page with its own retries; long lists from many
        places at once, in no order, unless `ordered`."""
        bucket, start = _split(prefix)

        def list_page(after: str) -> Page:
            request = {"Bucket": bucket, "Prefix": start}
            if after:
                request["StartAfter"] = start + after
            page = self._call(prefix, deadline_s, "list_objects_v2", **request)
            found = [
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
            return found, bool(page.get("IsTruncated"))

        first, more = list_page("")
        yield [info for _, info in first]
        if more:
            yield from iter_pages(list_page, first[-1][0], 1 if ordered else LISTERS)

    def check_bucket(self, path: str, *, deadline_s: float) -> None:
        """Raises ObjectMissing where there is no such bucket (HEAD on a key cannot tell)."""
        bucket, _ = _split(path)
        self._call(bucket, deadline_s, "head_bucket", Bucket=bucket)

    def read(
        self, path: str, *, etag: str | None, max_bytes: int | None, deadline_s: float
    ) -> bytes:
        """GET with If-Match; length and checksum are verified, or the MD5 that most ETags are."""
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
                    raise ObjectTooLarge(f"{self._root}{path}: {length} bytes, at most {max_bytes}")
                async with asyncio.timeout(READ_TIMEOUT_S + length / MIN_BYTES_PER_S):
                    data: bytes = await body.read()
            if len(data) != length:
                raise Transient(f"{len(data)} of {length} bytes came")
            found: str = response["ETag"].strip('"')
            if etag not in (None, found):  # a store, or a cache before it, that ignores If-Match
                raise ObjectChanged(
                    f"{self._root}{path}: is {found}, was {etag} when it was listed"
                )
            self._body_check.check(response, data, digests)
            return data

        return self._retry(path, deadline_s, get)

    def download(self, path: str, local: Path, *, deadline_s: float) -> None:
        """GET into a file, whatever its size; its length is verified, the time it may take grows with it."""
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
                raise Transient(f"{local.stat().st_size} of {length} bytes came")

        self._retry(path, deadline_s, get)

    def write(self, path: str, data: bytes) -> None:
        """PUT, replacing what is there."""
        bucket, key = _split(path)
        self._call(path, DEADLINE_S, "put_object", Bucket=bucket, Key=key, Body=data)

    def create(self, path: str, data: bytes) -> bool:
        """PUT with ``If-None-Match: *``; False where the key is taken (perhaps by a lost PUT of ours)."""
        bucket, key = _split(path)
        try:
            self._call(
                path, DEADLINE_S, "put_object", Bucket=bucket, Key=key, Body=data, IfNoneMatch="*"
            )
        except ObjectChanged:  # 412
            return False
        return True

    def upload(self, local: Path, path: str) -> None:
        """PUT a file, in parts where it is large; nothing is seen of them until the last request.

        A process that is killed before leaves parts that cost storage until the bucket's lifecycle rule
        (AbortIncompleteMultipartUpload) takes them.
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
            # No such upload any more: a completion whose acknowledgement was lost, and that was sent again.
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
        except boto.BotoCoreError as error:  # a bucket name or setting that no request can carry
            raise ObjectUnreadable(f"{uri}: {one_line(error)}") from error


def _split(path: str) -> tuple[str, str]:
    bucket, _, key = path.partition("/")
    return bucket, key
