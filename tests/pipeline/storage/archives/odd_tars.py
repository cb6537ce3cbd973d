"""Tars that are odd in ways that `hostile` does not have, with the rows that they must give."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator

from tests.pipeline.storage.archives.hostile import (
    BODY,
    END,
    GOOD,
    OK,
    A,
    Case,
    body,
    header,
    link,
    parquet_of,
    pax,
    tar_of,
    zip_of,
)

NFC, NFD = "\u00fc.jpg", "u\u0308.jpg"
STRANGE = [
    "100%.jpg",
    "a#b.jpg",
    "what?.jpg",
    "a b .jpg",
    "two\nlines.jpg",
    "tab\t.jpg",
    "'quoted\"$(x)`.jpg",
    "[1]*.jpg",
    ":a.jpg",
    "s3://b/k::c.jpg",
    NFC,
    NFD,
    "\u202etxt.jpg",
    "\U0001f600.jpg",
]


def escaped(name: str) -> str:
    return name.replace("%", "%25").replace("::", "%3A%3A")


def record(key: bytes, value: bytes) -> bytes:
    """A record of a PAX header."""
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest) + 1
    while len(b"%d" % length) + len(rest) != length:
        length += 1
    return b"%d" % length + rest


def gnu(kind: bytes, text: bytes) -> bytes:
    """A GNU header that gives the next member a long name (L) or target (K)."""
    return header(b"././@LongLink", len(text) + 1, kind) + body(text + b"\0")


def member(name: bytes, data: bytes = BODY, kind: bytes = b"0") -> bytes:
    return header(name, len(data), kind) + body(data)


def tars() -> Iterator[Case]:
    def case(name: str, data: bytes, rows: dict[str, str]) -> Case:
        return Case(name, ".tar", data, rows)

    long = "d" * 120 + "/\u00fc" * 90 + ".jpg"
    for form, kind in (("GNU", tarfile.GNU_FORMAT), ("PAX", tarfile.PAX_FORMAT)):
        names = [*STRANGE, long]
        data = tar_of(*((name, BODY) for name in names), format=kind)
        yield case(f"strange names in {form}", data, {escaped(name): OK for name in names})
    yield case(
        "a long name and a long target",
        GOOD + gnu(b"L", b"l" * 200 + b".jpg") + gnu(b"K", b"a.jpg") + header(b"x", 0, b"2") + END,
        A | {"l" * 200 + ".jpg": OK},
    )
    yield case("a long name at the end", GOOD + gnu(b"L", b"n" * 200) + END, A)
    yield case("an empty PAX path", pax(record(b"path", b"")) + GOOD + END, A)
    yield case(
        "GNU's sparse names",
        pax(record(b"GNU.sparse.name", b"b.jpg") + record(b"path", b"x/b.jpg")) + GOOD + END,
        {"b.jpg": "sparse"},
    )
    yield case(
        "a PAX path with a zero byte", pax(record(b"path", b"b.jpg\0x")) + GOOD + END, {"b.jpg": OK}
    )
    yield case(
        "a global PAX header",
        header(b"g", 30, b"g") + body(record(b"comment", b"x" * 18)) + GOOD + END,
        A,
    )
    yield case(
        "a Solaris header",
        header(b"X", 14, b"X") + body(record(b"path", b"b.jpg")) + GOOD + END,
        {"b.jpg": OK},
    )
    yield case(
        "two PAX headers",
        pax(record(b"path", b"1.jpg")) + pax(record(b"path", b"2.jpg")) + GOOD + END,
        {"2.jpg": OK},
    )
    yield case(
        "a hard link to itself, as tar writes a file that is named twice",
        tar_of(("a.jpg", BODY), link("a.jpg", "a.jpg", tarfile.LNKTYPE)),
        A,
    )
    yield case(
        "a hard link before its file",
        tar_of(link("b.jpg", "a.jpg", tarfile.LNKTYPE), ("a.jpg", BODY)),
        A | {"b.jpg": OK},
    )
    yield case(
        "a link through a folder that is a link",
        tar_of(("d/a.jpg", BODY), link("e", "d"), link("b.jpg", "e/a.jpg")),
        {"d/a.jpg": OK, "b.jpg": "leads to no image"},
    )
    yield case(
        "a link to a folder",
        tar_of(("d/a.jpg", BODY), link("b.jpg", "d")),
        {"d/a.jpg": OK, "b.jpg": "leads to no image"},
    )
    yield case(
        "a link to an archive",
        tar_of(("b.tar", BODY), link("b.jpg", "b.tar")),
        {"b.tar": "inside an archive", "b.jpg": "inside an archive"},
    )
    yield case(
        "a link to a sparse file",
        header(b"s.jpg", 512, b"S") + bytes(512) + header(b"b.jpg", 0, b"2", target=b"s.jpg") + END,
        {"s.jpg": "sparse", "b.jpg": "sparse"},
    )
    yield case(
        "a hard link with a size",
        GOOD + header(b"b.jpg", 999, b"1", target=b"a.jpg") + member(b"c.jpg") + END,
        A | {"b.jpg": OK, "c.jpg": OK},
    )
    yield case("a folder with a size", header(b"d/", 999, b"5") + GOOD + END, A)
    yield case("a device with a size", header(b"d.jpg", 999, b"3") + GOOD + END, A)
    yield case(
        "a kind that no program writes", member(b"b.jpg", kind=b"Q") + GOOD + END, A | {"b.jpg": OK}
    )
    yield case("a contiguous file", member(b"b.jpg", kind=b"7") + GOOD + END, A | {"b.jpg": OK})
    yield case(
        "a part of another volume",
        member(b"b.jpg", kind=b"M") + GOOD + END,
        A | {"b.jpg": "another volume"},
    )
    yield case("a volume label", header(b"label.jpg", 0, b"V") + GOOD + END, A)
    yield case(
        "one zero block, then more", GOOD + bytes(512) + GOOD + END, A | {"": "after its end mark"}
    )
    yield case("one zero block at the end", GOOD + bytes(512), A)
    yield case("zeros of 20 MB", GOOD + bytes(20 * 2**20), A)
    yield case("text after the end", GOOD + END + b"signature", A | {"": "after its end mark"})
    yield case(
        "a name that is long for ever", gnu(b"L", b"n" * 70_000) + GOOD + END, {"": "has a name"}
    )
    yield case(
        "a prefix of ustar",
        _with_prefix(b"folder", b"b.jpg") + body(BODY) + END,
        {"folder/b.jpg": OK},
    )
    yield case("gzip that is named .tar", _gzipped(tar_of(("a.jpg", BODY))), {"": "gzip"})
    yield case("a zip that is named .tar", zip_of(("a.jpg", BODY)), {"": "zip"})
    yield case("a Parquet file that is named .tar", parquet_of([BODY]), {"": "Parquet"})
    yield case("cut in its first header", GOOD[:300], {"": "is no tar"})
    yield case("cut in the padding", GOOD[: 512 + len(BODY)], A | {"": "ends"})
    yield case(
        "PAX text after its last record",
        pax(record(b"path", b"b.jpg") + b"\0" * 40) + GOOD + END,
        {"b.jpg": OK},
    )
    yield case("a signed checksum", _signed(b"\xe9.jpg") + body(BODY) + END, {"%E9.jpg": OK})
    yield case(
        "a size in binary",
        GOOD + header(b"b.jpg", 0, size=b"\x80" + len(BODY).to_bytes(11, "big")) + body(BODY) + END,
        A | {"b.jpg": OK},
    )
    yield case("a member without bytes", tar_of(("a.jpg", b"")), {"a.jpg": OK})


def _with_prefix(prefix: bytes, name: bytes) -> bytes:
    block = bytearray(header(name, len(BODY)))
    block[257:265] = b"ustar\x0000"
    block[345 : 345 + len(prefix)] = prefix
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def _signed(name: bytes) -> bytes:
    block = bytearray(header(name, len(BODY)))
    block[148:156] = b" " * 8
    total = sum(b - 256 if b > 127 else b for b in block)
    block[148:156] = b"%06o\0 " % total
    return bytes(block)


def _gzipped(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=31)
    return packer.compress(data) + packer.flush()
