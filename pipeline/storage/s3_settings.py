"""Reads settings of S3 from the environment, and bucket names from paths.

    AWS_REQUEST_PAYER=requester           pay for the requests to buckets whose owner asks for it
    AWS_NO_SIGN_REQUEST=YES               send unsigned requests, without credentials
    AWS_NO_SIGN_REQUEST=bucket1,bucket2   send unsigned requests to these buckets only

GDAL reads the same names. Only the list of buckets is an addition: images often lie in a public bucket, and
results in one's own.
"""

from __future__ import annotations

import os
import re

from pipeline.errors import UserError

_ARN = re.compile(
    r"(arn:aws[a-z-]*:s3(?:-object-lambda)?:[a-z0-9-]*:\d{12}:accesspoint[:/][^/:]+"
    r"|arn:aws[a-z-]*:s3-outposts:[a-z0-9-]+:\d{12}:outpost[:/][^/:]+[:/](?:accesspoint|bucket)[:/][^/:]+)"
    r"(?:/|$)"
)
"""The ARN of an access point, which takes the place of a bucket's name and may hold slashes."""
_YES, _NO = ("yes", "true", "1", "on"), ("", "no", "false", "0", "off")
_REQUEST_PAYER, _NO_SIGN = "AWS_REQUEST_PAYER", "AWS_NO_SIGN_REQUEST"


def bucket_and_key(path: str) -> tuple[str, str]:
    """Split ``bucket/key``. The bucket may be the ARN of an access point."""
    match = _ARN.match(path)
    if match is not None:
        return match[1], path[match.end() :]
    bucket, _, key = path.partition("/")
    return bucket, key


def requester_pays() -> bool:
    """Whether AWS_REQUEST_PAYER is set.

    Raises:
        UserError: it has a value other than `requester`.
    """
    value = os.environ.get(_REQUEST_PAYER, "").strip().lower()
    if value not in ("", "requester"):
        raise UserError(
            f"{_REQUEST_PAYER}={value}", "expected requester", "Set this value, or none."
        )
    return value == "requester"


def unsigned(bucket: str) -> bool:
    """Whether requests to a bucket are sent without a signature. An empty name asks for all buckets."""
    value = os.environ.get(_NO_SIGN, "").strip()
    if value.lower() in _YES:
        return True
    return value.lower() not in _NO and bucket in [name.strip() for name in value.split(",")]
