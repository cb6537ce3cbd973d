"""Chained URIs: the URI of a member of an archive, such as ``tar://folder/1.jpg::s3://bucket/x.tar``.

    tar://NAME::ARCHIVE        a member of a tar
    zip://NAME::ARCHIVE        a member of a zip
    parquet://ROW::ARCHIVE     a row of a Parquet file, counted from 0

ARCHIVE is the URI of the archive, byte for byte. NAME is the name in the archive, byte for byte, except that
``%`` is written %25, ``::`` is written %3A%3A, a colon at the end is written %3A, and bytes that are not
UTF-8 are written %XX. So the first ``::`` ends the name, and the URI gives back the bytes of the name. A name
is only a name: ``../a.jpg`` and ``/a.jpg`` are kept, and nothing is ever written under them.

Only the schemes above begin a chain. In all other URIs, ``::`` is a part of the key.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, cast

Kind = Literal["tar", "zip", "parquet"]
PACKED: tuple[Kind, ...] = ("tar", "zip", "parquet")
"""Schemes of a member of an archive."""
_CHAIN = re.compile(r"(tar|zip|parquet)://(.*?)::(.+)", re.DOTALL | re.IGNORECASE)
_ESCAPED = re.compile(rb"%([0-9A-Fa-f]{2})")


@dataclass(frozen=True, slots=True)
class Chain:
    """The parts of a chained URI."""

    kind: Kind
    name: str
    """The name of the member as it is written in the URI."""
    archive: str
    """The URI of the archive."""

    @property
    def uri(self) -> str:
        return f"{self.kind}://{self.name}::{self.archive}"


def split_chain(uri: str) -> Chain | None:
    """Return the parts of a chained URI; None for every other URI."""
    match = _CHAIN.fullmatch(uri) if uri[:1] in "tzpTZP" else None  # most URIs are no chains
    return match and Chain(cast(Kind, match[1].lower()), match[2], match[3])


def member_part(uri: str) -> str:
    """Return what names the image: the name of the member in a chained URI, else the URI.

    Base names, suffixes, globs and labels are compared with this part.
    """
    match = _CHAIN.fullmatch(uri)
    return uri if match is None else match[2]


def archive_part(uri: str) -> str:
    """Return the URI of the object that holds the image: the archive of a chained URI, else the URI."""
    match = _CHAIN.fullmatch(uri)
    return uri if match is None else match[3]


def unpacked(uri: str) -> str:
    """Return where an image would lie if its archive were a folder: ``s3://bucket/x.tar/folder/1.jpg``.

    Folders and prefixes of images are compared in this form.
    """
    chain = split_chain(uri)
    return uri if chain is None else f"{chain.archive}/{chain.name}"


UNPACKED_SQL = (
    "CASE WHEN contains(image_uri, '::') THEN "  # few URIs have it, and it is found faster
    r"regexp_replace(image_uri, '^(?:tar|zip|parquet)://(.*?)::(.+)$', '\2/\1', 'si') ELSE image_uri END"
)
"""`unpacked` for the column image_uri, in DuckDB."""


def escape_name(name: bytes) -> str:
    """Write the name of a member as it stands in a chained URI."""
    try:
        text = name.decode()
    except UnicodeDecodeError:
        text = name.replace(b"%", b"%25").decode("utf-8", "surrogateescape")
        text = "".join(f"%{ord(c) - 0xDC00:02X}" if "\udc80" <= c <= "\udcff" else c for c in text)
    else:
        if "%" in text:
            text = text.replace("%", "%25")
    if ":" in text:
        text = text.replace("::", "%3A%3A")
        if text.endswith(":"):  # it would join the "::" that follows
            text = text[:-1] + "%3A"
    return text


def member_name(name: str) -> bytes:
    """Return the bytes of a name that `escape_name` wrote."""
    return _ESCAPED.sub(lambda match: bytes((int(match[1], 16),)), name.encode())
