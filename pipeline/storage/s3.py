"""S3, and stores with the same interface: each operation as requests of `pipeline.storage.s3_client`."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from pipeline.errors import ObjectChanged, ObjectMissing, ObjectTooLarge, ObjectUnreadable
from pipeline.runtime.prefetch import in_threads
from pipeline.storage.ranges import LISTERS, Page, iter_pages
from pipeline.storage.retry import DEADLINE_S, Transient
from pipeline.storage.s3_answers import BodyCheck
from pipeline.storage.s3_client import CONNECT_TIMEOUT_S, READ_TIMEOUT_S, S3Client, filesystem
from pipeline.storage.s3_settings import bucket_and_key, unsigned
from pipeline.storage.small_objects import SmallObjects
from pipeline.storage.uris import ObjectInfo

MIN_BYTES_PER_S = 64 * 1024
"""If a body arrives more slowly than this on average, the attempt has failed."""
PART_BYTES = 32 * 2**20
"""Size of a part of a multipart upload, and of the largest file that is sent in one request. S3 accepts parts
of 5 MiB to 5 GiB."""
_MOST_PARTS = 9_000  # S3 accepts 10,000 parts, and 5 TiB in total
_PARTS_AT_ONCE = 4


class S3Store:
    """The store for S3. Paths are ``bucket/key``, the key byte for byte; `root` precedes them in URIs."""

    lists_in_order = True
    denied_advice = (
        "Check AWS_ACCESS_KEY_ID and the other credentials, or the permissions; for a public bucket, set "
        "AWS_NO_SIGN_REQUEST=YES"
    )
    unreachable_advice = "Check the URI and AWS_ENDPOINT_URL"

    def __init__(self, root: str) -> None:
        self._root = root
        self._client = S3Client(root)
        self._body_check = BodyCheck()
        self._small = SmallObjects(
            lambda: self._client.signing, (CONNECT_TIMEOUT_S, READ_TIMEOUT_S)
        )

    def stat(self, path: str, *, deadline_s: float) -> ObjectInfo:
        """Return size and ETag by a HEAD request."""
        bucket, key = bucket_and_key(path)
        if not key:
            raise ObjectMissing(f"{self._root}{path}: names a bucket, not an object")
        head = self._client.call(path, deadline_s, "head_object", Bucket=bucket, Key=key)
        return ObjectInfo(self._root + path, head["ETag"].strip('"'), head["ContentLength"])

    def iter_pages(
        self, prefix: str, *, deadline_s: float, ordered: bool = False
    ) -> Iterator[list[ObjectInfo]]:
        """Yield every object whose key starts with the prefix; each page has its own retries.

        A list of several pages is read with many requests at once, in any order, unless `ordered`.
        """
        bucket, start = bucket_and_key(prefix)

        def list_page(after: str) -> Page:
            request = {"Bucket": bucket, "Prefix": start}
            if after:
                request["StartAfter"] = start + after
            page = self._client.call(prefix, deadline_s, "list_objects_v2", **request)
            # S3 may answer with no key and IsTruncated. Only its token leads on from there.
            while page.get("IsTruncated") and not page.get("Contents"):
                token = page.get("NextContinuationToken")
                if not token or token == request.get("ContinuationToken"):
                    raise ObjectUnreadable(
                        f"{self._root}{prefix}: an answer to the listing is empty, says that there is more, "
                        "and has no new token to ask for it"
                    )
                request["ContinuationToken"] = token
                page = self._client.call(prefix, deadline_s, "list_objects_v2", **request)
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
        bucket, _ = bucket_and_key(path)
        self._client.call(bucket, deadline_s, "head_bucket", Bucket=bucket)

    def arrow_filesystem(self) -> pafs.FileSystem:
        return pafs.PyFileSystem(pafs.FSSpecHandler(filesystem(anonymous=unsigned(""))))

    def read(
        self, path: str, *, etag: str | None, max_bytes: int | None, deadline_s: float
    ) -> bytes:
        """Read an object by GET with If-Match.

        The length and the checksum are verified. Without a checksum, the MD5 is compared with the ETag, which
        is the MD5 for most objects.
        """
        bucket, key = bucket_and_key(path)
        request = {"Bucket": bucket, "Key": key, **self._client.payer}
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

        return self._client.retry(path, deadline_s, get)

    def read_range(
        self, path: str, *, first: int, length: int, etag: str | None, deadline_s: float
    ) -> bytes:
        """Read a part of an object by GET with Range and If-Match. Its length is verified.

        A checksum of S3 is one of the whole object, so a part has none.
        """
        bucket, key = bucket_and_key(path)
        uri = self._root + path
        request = {"Bucket": bucket, "Key": key, **self._client.payer}
        request["Range"] = f"bytes={first}-{first + length - 1}"
        if etag is not None:
            request["IfMatch"] = f'"{etag}"'

        async def get(client: Any) -> bytes:
            response = await client.get_object(**request)
            async with response["Body"] as body:
                if not response.get("ContentRange", "").startswith(f"bytes {first}-"):
                    raise ObjectUnreadable(f"{uri}: the store ignores Range")
                async with asyncio.timeout(READ_TIMEOUT_S + length / MIN_BYTES_PER_S):
                    data: bytes = await body.read()
            current: str = response["ETag"].strip('"')
            if etag not in (None, current):  # the store, or a cache before it, ignores If-Match
                raise ObjectChanged(f"{uri}: its ETag is {current}, but it was {etag}")
            if len(data) != length:
                raise Transient(f"only {len(data)} of {length} bytes arrived")
            return data

        return self._client.retry(path, deadline_s, get)

    def read_listed(self, path: str, info: ObjectInfo) -> bytes:
        """Read a small object that was listed; see `pipeline.storage.small_objects`."""
        return self._small.read(
            path,
            info,
            lambda: self.read(path, etag=None, max_bytes=None, deadline_s=DEADLINE_S),
        )

    def download(self, path: str, local: Path, *, deadline_s: float) -> None:
        """Download an object of any size into a file. The length is verified.

        The time limit grows with the size.
        """
        bucket, key = bucket_and_key(path)

        async def get(client: Any) -> None:
            response = await client.get_object(Bucket=bucket, Key=key, **self._client.payer)
            length: int = response["ContentLength"]
            async with response["Body"] as body:
                async with asyncio.timeout(READ_TIMEOUT_S + length / MIN_BYTES_PER_S):
                    with local.open("wb") as file:
                        async for chunk in body.iter_chunks(1 << 20):
                            file.write(chunk)
            if local.stat().st_size != length:
                raise Transient(f"only {local.stat().st_size} of {length} bytes arrived")

        self._client.retry(path, deadline_s, get)

    def write(self, path: str, data: bytes) -> None:
        """Write an object by PUT; an object of this name is replaced."""
        bucket, key = bucket_and_key(path)
        self._client.call(path, DEADLINE_S, "put_object", Bucket=bucket, Key=key, Body=data)

    def create(self, path: str, data: bytes) -> bool:
        """Create an object by PUT with ``If-None-Match: *``; return False if the key is taken.

        An earlier attempt of the same call, whose answer was lost, may have taken it.
        """
        bucket, key = bucket_and_key(path)
        try:
            self._client.call(
                path, DEADLINE_S, "put_object", Bucket=bucket, Key=key, Body=data, IfNoneMatch="*"
            )
        except ObjectChanged:  # 412
            return False
        return True

    def delete(self, path: str) -> None:
        """Delete an object. In a bucket with versions, the old version stays."""
        bucket, key = bucket_and_key(path)
        self._client.call(path, DEADLINE_S, "delete_object", Bucket=bucket, Key=key)

    def age_s(self, path: str, *, deadline_s: float) -> float | None:
        """Return the age of an object: the time of the answer less the time of the object."""
        bucket, key = bucket_and_key(path)
        head = self._client.call(path, deadline_s, "head_object", Bucket=bucket, Key=key)
        now = head["ResponseMetadata"]["HTTPHeaders"].get("date")
        if now is None:
            return None
        written: datetime = head["LastModified"]
        return (parsedate_to_datetime(now) - written).total_seconds()

    def upload(self, local: Path, path: str) -> None:
        """Upload a file; a large one in parts, which are invisible until the last request.

        If the process is killed before that, the parts stay and cost storage, until the bucket's lifecycle
        rule (AbortIncompleteMultipartUpload) deletes them.
        """
        size = local.stat().st_size
        if size <= PART_BYTES:
            self.write(path, local.read_bytes())
            return
        bucket, key = bucket_and_key(path)
        target = {"Bucket": bucket, "Key": key}
        upload = self._client.call(path, DEADLINE_S, "create_multipart_upload", **target)[
            "UploadId"
        ]
        step = max(PART_BYTES, -(-size // _MOST_PARTS))

        def put(number: int) -> dict[str, Any]:
            with local.open("rb") as file:
                file.seek((number - 1) * step)
                part = {"PartNumber": number, "UploadId": upload, "Body": file.read(step)}
            answer = self._client.call(path, DEADLINE_S, "upload_part", **target, **part)
            return {"ETag": answer["ETag"], "PartNumber": number}

        try:
            parts = in_threads(put, range(1, -(-size // step) + 1), threads=_PARTS_AT_ONCE)
            done = {"UploadId": upload, "MultipartUpload": {"Parts": parts}}
            self._complete(path, size, **target, **done)
        except BaseException:
            self._client.call(path, DEADLINE_S, "abort_multipart_upload", **target, UploadId=upload)
            raise

    def _complete(self, path: str, size: int, **request: Any) -> None:
        try:
            self._client.call(path, DEADLINE_S, "complete_multipart_upload", **request)
        except ObjectMissing:
            # The upload no longer exists: the answer to a first completion was lost, and this is the second.
            if self.stat(path, deadline_s=DEADLINE_S).size != size:
                raise
