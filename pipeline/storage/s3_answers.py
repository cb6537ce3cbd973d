"""What an answer of S3, or none, means: ask again, what the object is, whether the body is whole."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import aiohttp
from botocore import exceptions as boto
from botocore.parsers import ResponseParserError

from pipeline.errors import (
    ObjectChanged,
    ObjectDenied,
    ObjectMissing,
    ObjectUnreadable,
    StorageError,
    one_line,
)
from pipeline.storage.retry import Transient

_MD5 = re.compile("[0-9a-f]{32}")
_SAME_BYTES = 4
"""Times: what breaks a body by chance does not break it so often in the same way."""
_CHECKSUMS = (
    "ChecksumCRC32",
    "ChecksumCRC32C",
    "ChecksumCRC64NVME",
    "ChecksumSHA1",
    "ChecksumSHA256",
)


_TRANSIENT_STATUS = (408, 409, 429, 500, 502, 503, 504)
_TRANSIENT_CODES = (
    "RequestTimeout",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "InternalError",
)
_DENIED_CODES = ("ExpiredToken", "InvalidToken", "TokenRefreshRequired")
"""With status 400: credentials that ran out."""
TRANSIENT = (
    boto.ConnectionError,  # refused, no such host, timed out while connecting
    boto.HTTPClientError,  # reset, timed out while reading
    boto.IncompleteReadError,
    boto.ResponseStreamingError,
    boto.FlexibleChecksumError,
    ResponseParserError,
    aiohttp.ClientError,  # aiobotocore lets the body's errors through
    ConnectionError,
    TimeoutError,
)
NO_CREDENTIALS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.TokenRetrievalError,
    boto.ProfileNotFound,
)


class BodyCheck:
    """Compares bodies that come without a checksum with the MD5 that most ETags are.

    Which they are is learnt: some stores, and some encryptions, make them otherwise.
    """

    def __init__(self) -> None:
        self._matched = False
        self._no_md5 = False

    def check(self, response: Mapping[str, Any], data: bytes, digests: Counter[str]) -> None:
        """Let a body pass, or not.

        Args:
            response: of GetObject; where it has a checksum, botocore has compared that.
            data: the whole body.
            digests: how often which MD5 came for this object; this one's is added.

        Raises:
            Transient: it differs, and such bytes have not come `_SAME_BYTES` times.
        """
        etag = response["ETag"].strip('"')
        # Of a multipart upload ("...-3") they are sums of sums, which botocore leaves alone.
        summed = any(name in _CHECKSUMS and "-" not in value for name, value in response.items())
        if summed or self._no_md5 or not _MD5.fullmatch(etag):
            return
        digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
        if digest == etag:
            self._matched = True
            return
        digests[digest] += 1
        if digests[digest] < _SAME_BYTES:
            raise Transient(f"the bytes that came have MD5 {digest}, the ETag is {etag}")
        self._no_md5 = not self._matched


def classify(uri: str, error: Any) -> StorageError | Transient:
    """What to raise for a ClientError about an object."""
    details = error.response.get("Error", {})
    code = str(details.get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    cause = one_line(f"{error.operation_name}: {code} {details.get('Message', '')}")
    message = f"{uri}: {cause}"
    if status == 404:
        return ObjectMissing(message)
    if status == 412:
        return ObjectChanged(message)
    if code == "InvalidObjectState":  # 403: archived, no right is missing
        return ObjectUnreadable(message)
    if status in _TRANSIENT_STATUS or code in _TRANSIENT_CODES:
        return Transient(cause)
    if status in (401, 403) or code in _DENIED_CODES:
        return ObjectDenied(message)
    return ObjectUnreadable(message)
