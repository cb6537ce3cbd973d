"""Reads many small objects of S3 quickly, with obstore.

botocore needs about a millisecond of CPU time for each request, obstore a tenth of that. But it has other
errors, other retries, and refuses some keys. So nothing is decided here: an object that does not arrive
exactly as it was listed is read again by `S3Store.read`, with its statuses, its checks and its patience.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import obstore
import s3fs
from obstore.exceptions import BaseError
from obstore.store import S3Store as RustStore

from pipeline.storage.s3_settings import bucket_and_key, requester_pays, unsigned
from pipeline.storage.uris import ObjectInfo

if TYPE_CHECKING:
    from obstore.store import S3Credential

logger = logging.getLogger(__name__)

SMALL_AT_ONCE = 48
"""Requests at the same time. Each waits 20 to 30 ms for S3, so 16 would read 600 objects a second."""
_MOST_MISSED = 3
"""If obstore read none of so many objects that `S3Store.read` could read, it is not used any more: it lacks a
setting, such as a certificate or the region of the bucket."""
_CREDENTIALS_LAST = timedelta(minutes=5)
"""Credentials with a token are asked for again after this time."""
_PLAIN_KEY = re.compile(r"(?:(?!\.\.?/)[\w.,=@+()\- ]+/)*(?!\.\.?$)[\w.,=@+()\- ]+")
"""Keys that obstore sends byte for byte."""
_MD5 = re.compile("[0-9a-f]{32}")


class SmallObjects:
    """Reads objects of one S3 endpoint. Any thread may use it."""

    def __init__(
        self,
        filesystem: Callable[[], s3fs.S3FileSystem],
        timeouts: tuple[float, float],
    ) -> None:
        """Make a reader.

        Args:
            filesystem: gives the present client, for endpoint, region and credentials.
            timeouts: seconds for a connection, and for a whole request.
        """
        self._filesystem, self._timeouts = filesystem, timeouts
        self._stores: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._missed, self._works = 0, False
        self._etag_is_md5 = True

    def read(self, path: str, info: ObjectInfo, patiently: Callable[[], bytes]) -> bytes:
        """Read an object that was listed.

        Args:
            path: ``bucket/key``.
            info: its ETag and size in the listing.
            patiently: reads the object in the way that decides on errors.
        """
        bucket, key = bucket_and_key(path)
        plain = _PLAIN_KEY.fullmatch(key) and "/" not in bucket  # not the ARN of an access point
        if not plain or self._missed >= _MOST_MISSED:
            return patiently()
        data = self._get(bucket, key, info)
        if data is not None and self._as_listed(data, info):
            self._works = True
            return data
        whole = patiently()
        if data == whole and len(whole) == info.size:
            self._etag_is_md5 = False  # as with some kinds of encryption
        elif not self._works:
            self._missed += 1
            if self._missed == _MOST_MISSED:
                logger.info("%s: obstore cannot read this store; reading with botocore", info.uri)
        return whole

    def _get(self, bucket: str, key: str, info: ObjectInfo) -> bytes | None:
        """Read an object once; None if that is not possible, or if it is not the listed one."""
        try:
            answer = obstore.get(self._store(bucket), key)
            if (answer.meta["e_tag"] or "").strip('"') != info.etag:
                return None
            return bytes(answer.bytes())
        except (BaseError, OSError, ValueError) as error:  # some are errors of Python
            logger.debug("%s: %s", info.uri, error)
            return None

    def _as_listed(self, data: bytes, info: ObjectInfo) -> bool:
        if len(data) != info.size:
            return False
        if not self._etag_is_md5 or not _MD5.fullmatch(info.etag):
            return True
        return hashlib.md5(data, usedforsecurity=False).hexdigest() == info.etag

    def _store(self, bucket: str) -> Any:
        with self._lock:
            if bucket not in self._stores:
                self._stores[bucket] = self._make_store(bucket)
            return self._stores[bucket]

    def _make_store(self, bucket: str) -> Any:
        fs = self._filesystem()
        client = asyncio.run_coroutine_threadsafe(fs.set_session(), fs.loop).result()
        connect_s, request_s = self._timeouts
        signs = not unsigned(bucket)
        return RustStore(
            bucket,
            endpoint=client.meta.endpoint_url,
            region=client.meta.region_name or "us-east-1",
            virtual_hosted_style_request=False,
            skip_signature=not signs,
            request_payer=requester_pays(),
            client_options={
                "allow_http": True,
                "connect_timeout": timedelta(seconds=connect_s),
                "timeout": timedelta(seconds=request_s),
            },
            retry_config={"max_retries": 0},
            credential_provider=self._credentials if signs else None,
        )

    def _credentials(self) -> S3Credential:
        """Give obstore the credentials of botocore's session."""
        fs = self._filesystem()

        async def frozen() -> Any:
            await fs.set_session()
            credentials = await fs.session.get_credentials()
            return None if credentials is None else await credentials.get_frozen_credentials()

        found = asyncio.run_coroutine_threadsafe(frozen(), fs.loop).result()
        if found is None:
            raise LookupError("botocore has no credentials")
        return {
            "access_key_id": found.access_key,
            "secret_access_key": found.secret_key,
            "token": found.token,
            "expires_at": datetime.now(UTC) + _CREDENTIALS_LAST if found.token else None,
        }
