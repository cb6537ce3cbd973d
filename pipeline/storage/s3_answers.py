"""Interprets responses of S3: which errors are tried again, what the others mean, whether a body is whole."""

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
    BucketMissing,
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
"""After so many reads with the same MD5, the bytes are what the store has: random damage does not repeat."""
_CHECKSUMS = (
    "ChecksumCRC32",
    "ChecksumCRC32C",
    "ChecksumCRC64NVME",
    "ChecksumSHA1",
    "ChecksumSHA256",
)


_TRANSIENT_STATUS = (408, 409, 425, 429)
_NOT_IMPLEMENTED = 501
"""The only server error that does not pass: the store does not have this kind of request."""
_TRANSIENT_CODES = (
    "RequestTimeout",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "InternalError",
)
_DENIED_CODES = ("ExpiredToken", "InvalidToken", "TokenRefreshRequired")
"""Codes for expired credentials; S3 sends them with status 400."""
_CREDENTIALS_CODES = (*_DENIED_CODES, "InvalidAccessKeyId", "SignatureDoesNotMatch")
TRANSIENT = (
    boto.ConnectionError,  # refused, unknown host, time-out while connecting
    boto.HTTPClientError,  # reset, time-out while reading
    boto.IncompleteReadError,
    boto.ResponseStreamingError,
    boto.FlexibleChecksumError,
    ResponseParserError,
    aiohttp.ClientError,  # aiobotocore does not wrap errors of the body
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
    """Checks bodies without a checksum: compares their MD5 with the ETag.

    For most objects the ETag is the MD5. Some stores, and some kinds of encryption, make other ETags. This
    class learns from the bodies which kind the store has.
    """

    def __init__(self) -> None:
        self._matched = False
        self._no_md5 = False

    def check(self, response: Mapping[str, Any], data: bytes, digests: Counter[str]) -> None:
        """Check one body.

        Args:
            response: the response of GetObject. If it has a checksum, botocore has compared it already.
            data: the whole body.
            digests: how often each MD5 was read for this object; the MD5 of this body is added.

        Raises:
            Transient: the MD5 is not the ETag, and it was read less than `_SAME_BYTES` times.
        """
        etag = response["ETag"].strip('"')
        # The checksum of a multipart upload ("...-3") is a checksum of checksums; botocore ignores it.
        summed = any(name in _CHECKSUMS and "-" not in value for name, value in response.items())
        if summed or self._no_md5 or not _MD5.fullmatch(etag):
            return
        digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
        if digest == etag:
            self._matched = True
            return
        digests[digest] += 1
        if digests[digest] < _SAME_BYTES:
            raise Transient(f"the bytes that arrived have MD5 {digest}, but the ETag is {etag}")
        self._no_md5 = not self._matched


def may_have_new_credentials(error: Any) -> bool:
    """Return whether a ClientError is about credentials that may have been replaced meanwhile."""
    return str(error.response.get("Error", {}).get("Code", "")) in _CREDENTIALS_CODES


def classify(uri: str, error: Any) -> StorageError | Transient:
    """Return the exception to raise for a ClientError about an object."""
    details = error.response.get("Error", {})
    code = str(details.get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    cause = one_line(f"{error.operation_name}: {code} {details.get('Message', '')}")
    message = f"{uri}: {cause}"
    if code == "NoSuchBucket":
        return BucketMissing(message)
    if status == 404:
        return ObjectMissing(message)
    if status == 412:
        return ObjectChanged(message)
    # The status is 403, but no permission is missing: the object is archived.
    if code == "InvalidObjectState":
        return ObjectUnreadable(message)
    server_error = status >= 500 and status != _NOT_IMPLEMENTED
    if server_error or status in _TRANSIENT_STATUS or code in _TRANSIENT_CODES:
        return Transient(cause)
    if code == "RequestTimeTooSkewed":
        return ObjectDenied(f"{message} (the clock of this machine is wrong: set it)")
    if status in (401, 403) or code in _DENIED_CODES:
        return ObjectDenied(message)
    return ObjectUnreadable(message)
