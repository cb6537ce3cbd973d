"""Archives of strangers, made by Python, with the rows that they must give."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

BODY = b"\xff\xd8\xff" + bytes(range(100))
OK = "ok"


@dataclass(frozen=True, slots=True)
class Case:
    """An archive. `rows`: name of a member, or "" for the archive -> `ok` or a part of the problem."""

    name: str
    suffix: str
    data: bytes
    rows: dict[str, str] = field(default_factory=dict)


def tar_of(
    *members: tuple[str, bytes] | tarfile.TarInfo, format: int = tarfile.GNU_FORMAT
) -> bytes:
    """A tar of files, or of headers without a body."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            tar.addfile(info, io.BytesIO(member[1]))
    return out.getvalue()


def zip_of(*members: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return out.getvalue()


def header(name: bytes, length: int, kind: bytes = b"0", **fields: bytes) -> bytes:
    """A header of a tar, with a right checksum."""
    block = bytearray(512)
    block[: len(name[:100])] = name[:100]
    block[100:108] = b"0000644\0"
    block[124:136] = fields.get("size", b"%011o\0" % length)
    block[156:157] = kind
    block[157 : 157 + len(fields.get("target", b""))] = fields.get("target", b"")
    block[257:265] = b"ustar\x0000"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def body(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def pax(records: bytes) -> bytes:
    return header(b"pax", len(records), b"x") + body(records)


END = bytes(1024)
GOOD = header(b"a.jpg", len(BODY)) + body(BODY)
A = {"a.jpg": OK}


def tars() -> Iterator[Case]:
    """Tars that are damaged, odd, or made to do harm."""

    def case(name: str, data: bytes, rows: dict[str, str]) -> Case:
        return Case(name, ".tar", data, rows)

    yield case("an empty file", b"", {"": "is empty"})
    yield case("only zeros", END, {})
    yield case("text", b"hello" * 300, {"": "is no tar"})
    yield case("gzip", b"\x1f\x8b" + bytes(600), {"": "it is gzip data"})
    yield case("no end mark", GOOD, A | {"": "without its end mark"})
    yield case("cut in a body", GOOD + header(b"b.jpg", 999) + b"x" * 500, A | {"": "is cut"})
    yield case("cut in a header", GOOD + header(b"b.jpg", 9)[:100], A | {"": "ends in a header"})
    yield case("a wrong checksum", GOOD + b"x" * 512 + END, A | {"": "has no header"})
    yield case(
        "a size of 8 EB",
        GOOD + header(b"b.jpg", 0, size=b"\x80" + bytes(3) + b"\x7f" + b"\xff" * 7) + END,
        A | {"": "is cut"},
    )
    yield case(
        "a negative size",
        GOOD + header(b"b.jpg", 0, size=b"\xff" * 12) + END,
        A | {"": "without a size"},
    )
    yield case(
        "a size of letters",
        GOOD + header(b"b.jpg", 0, size=b"zzzzzzzzzzz\0") + END,
        A | {"": "without a size"},
    )
    yield case(
        "digits that are not octal",
        GOOD + header(b"b.jpg", 0, size=b"00000000009\0") + END,
        A | {"": "without a size"},
    )
    yield case(
        "a PAX header of 2 MB",
        GOOD + header(b"pax", 2**21, b"x") + bytes(2**21) + END,
        A | {"": "more than the limit"},
    )
    yield case(
        "a long name of 2 MB",
        GOOD + header(b"L", 2**21, b"L") + bytes(2**21) + END,
        A | {"": "more than the limit"},
    )
    yield case(
        "a PAX record without a length", GOOD + pax(b"path=x\n") + END, A | {"": "damaged PAX"}
    )
    yield case(
        "a PAX record that runs on", GOOD + pax(b"99999 path=x\n") + END, A | {"": "damaged PAX"}
    )
    yield case("a PAX size of letters", pax(b"10 size=x\n") + GOOD + END, {"": "without a size"})
    yield case(
        "a PAX size beyond the end", pax(b"20 size=99999999999\n") + GOOD + END, {"": "is cut"}
    )
    yield case(
        "a sparse file",
        GOOD + header(b"s.jpg", 512, b"S") + bytes(512) + END,
        A | {"s.jpg": "sparse"},
    )
    yield case(
        "a PAX sparse file", pax(b"22 GNU.sparse.major=1\n") + GOOD + END, {"a.jpg": "sparse"}
    )
    yield case(
        "a sparse map without an end",
        header(b"s.jpg", 0, b"S")[:482] + b"\1" + bytes(29),
        {"": "is no tar"},
    )
    yield case(
        "a link to a file", tar_of(("a.jpg", BODY), link("b.jpg", "a.jpg")), A | {"b.jpg": OK}
    )
    yield case(
        "a hard link",
        tar_of(("d/a.jpg", BODY), link("b.jpg", "d/a.jpg", tarfile.LNKTYPE)),
        {"d/a.jpg": OK, "b.jpg": OK},
    )
    yield case(
        "a link out of its folder",
        tar_of(("a.jpg", BODY), link("d/b.jpg", "../a.jpg")),
        A | {"d/b.jpg": OK},
    )
    yield case(
        "a link outside", tar_of(link("b.jpg", "../../etc/passwd")), {"b.jpg": "leads to no image"}
    )
    yield case(
        "a link to /etc", tar_of(link("b.jpg", "/etc/passwd")), {"b.jpg": "leads to no image"}
    )
    yield case(
        "links in a circle",
        tar_of(link("a.jpg", "b.jpg"), link("b.jpg", "a.jpg")),
        {"a.jpg": "leads to no image", "b.jpg": "leads to no image"},
    )
    chain = [link(f"{n}.jpg", f"{n - 1}.jpg") for n in range(1, 10)]
    yield case(
        "nine links in a row",
        tar_of(("0.jpg", BODY), *chain),
        {f"{n}.jpg": OK for n in range(9)} | {"9.jpg": "leads to no image"},
    )
    yield case(
        "names that climb",
        tar_of(("../../a.jpg", BODY), ("/etc/b.jpg", BODY)),
        {"../../a.jpg": OK, "/etc/b.jpg": OK},
    )
    yield case(
        "a name of other bytes",
        header(b"\xff%::.jpg", 9) + body(b"x" * 9) + END,
        {"%FF%25%3A%3A.jpg": OK},
    )
    yield case("a name twice", tar_of(("a.jpg", b"old"), ("a.jpg", BODY)), A)
    yield case(
        "an archive inside",
        tar_of(("a.jpg", BODY), ("b.tar", b"x"), ("c.zip", b"x")),
        A | {"b.tar": "inside an archive", "c.zip": "inside an archive"},
    )
    yield case(
        "devices", tar_of(("a.jpg", BODY), *(link(f"{n}.jpg", "", n.encode()) for n in "346")), A
    )
    yield case(
        "two tars joined",
        tar_of(("a.jpg", BODY)) + tar_of(("b.jpg", BODY)),
        A | {"": "after its end mark"},
    )
    yield case("a V7 folder", header(b"d/", 0, b"\0") + GOOD + END, A)


def _patched(data: bytes, old: bytes, new: bytes, count: int = -1) -> bytes:
    assert old in data
    return data.replace(old, new, count)


def _central(data: bytes, at: int, value: bytes) -> bytes:
    """Change bytes of the first entry of the central directory."""
    place = data.index(b"PK\x01\x02") + at
    return data[:place] + value + data[place + len(value) :]


def _scrambled(data: bytes) -> bytes:
    """Change the first stored bytes of the first member."""
    begin = 30 + len("a.jpg")
    return data[:begin] + b"\xff" * 20 + data[begin + 20 :]


def zips() -> Iterator[Case]:
    """Zips that are damaged, odd, or made to do harm."""
    good = zip_of(("a.jpg", BODY), ("b.jpg", BODY), method=zipfile.ZIP_STORED)
    both = {"a.jpg": OK, "b.jpg": OK}

    def case(name: str, data: bytes, rows: dict[str, str]) -> Case:
        return Case(name, ".zip", data, rows)

    yield case("an empty file", b"", {"": "is no zip"})
    yield case("an empty zip", zip_of(), {})
    yield case("cut", good[:-40], {"": "is no zip, or is cut"})
    yield case("data before it", b"#!/bin/sh\n" * 9 + good, both)
    yield case("a comment", good[:-2] + struct.pack("<H", 9) + b"a comment", both)
    yield case("several parts", good[:-18] + b"\1\0\1\0" + good[-14:], {"": "one part of several"})
    yield case(
        "a directory outside",
        good[:-6] + b"\xff\xff\xff\x7f" + good[-2:],
        {"": "outside of itself"},
    )
    yield case(
        "too many members",
        good[:-12] + b"\xff\xff" + good[-10:],
        both | {"": "2 members in its directory, and 65535"},
    )
    yield case("encrypted", _central(good, 8, b"\1\0"), {"a.jpg": "encrypted", "b.jpg": OK})
    yield case("LZMA", zip_of(("a.jpg", BODY), method=zipfile.ZIP_LZMA), {"a.jpg": "LZMA"})
    yield case("bzip2", zip_of(("a.jpg", BODY), method=zipfile.ZIP_BZIP2), {"a.jpg": "bzip2"})
    yield case("a bomb", zip_of(("a.jpg", bytes(50 * 2**20))), {"a.jpg": "unpacks"})
    yield case(
        "a bomb that lies",
        _central(zip_of(("a.jpg", bytes(10**6))), 24, struct.pack("<I", 1000)),
        {"a.jpg": "unpacks to more"},
    )
    yield case(
        "fewer bytes than it says",
        _central(zip_of(("a.jpg", BODY)), 24, struct.pack("<I", 1000)),
        {"a.jpg": "unpacks to fewer"},
    )
    yield case(
        "two members at one place",
        _central(good, 42, struct.pack("<I", good.index(b"PK\x03\x04", 9))),
        {"a.jpg": "overlaps", "b.jpg": "overlaps"},
    )
    yield case(
        "a member beyond the end",
        _central(good, 42, b"\xf0\xff\xff\x7f"),
        {"a.jpg": "outside", "b.jpg": OK},
    )
    yield case(
        "sizes that differ",
        _central(good, 20, struct.pack("<I", 9)),
        {"a.jpg": "two sizes differ", "b.jpg": OK},
    )
    yield case(
        "a wrong CRC",
        _patched(good, struct.pack("<I", zlib.crc32(BODY)), b"abcd"),
        {"a.jpg": "CRC-32", "b.jpg": "CRC-32"},
    )
    yield case(
        "another name in the header",
        _patched(good, b"a.jpg", b"x.jpg", 1),
        {"a.jpg": "different names", "b.jpg": OK},
    )
    yield case(
        "damaged Deflate",
        _scrambled(zip_of(("a.jpg", BODY * 9))),
        {"a.jpg": ""},
    )
    yield case(
        "names that climb",
        zip_of(("../a.jpg", BODY), ("/b.jpg", BODY)),
        {"../a.jpg": OK, "/b.jpg": OK},
    )
    yield case("folders", zip_of(("d/", b""), ("d/a.jpg", BODY)), {"d/a.jpg": OK})
    yield case("an archive inside", zip_of(("b.zip", zip_of())), {"b.zip": "inside an archive"})


def parquet_of(values: list[bytes | None], rows: int = 4, **options: object) -> bytes:
    out = io.BytesIO()
    images = [value and {"bytes": value, "path": f"{n}.jpg"} for n, value in enumerate(values)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array(images, kind)}), out, row_group_size=rows, **options)
    return out.getvalue()


def parquets() -> Iterator[Case]:
    """Parquet files that are damaged or odd."""
    good = parquet_of([BODY + bytes((n,)) for n in range(8)])
    eight = {str(n): OK for n in range(8)}

    def case(name: str, data: bytes, rows: dict[str, str]) -> Case:
        return Case(name, ".parquet", data, rows)

    yield case("an empty file", b"", {"": "is no Parquet file"})
    yield case("text", b"hello" * 30, {"": "is no Parquet file"})
    yield case("good", good, eight)
    yield case("cut", good[:-20], {"": "is no Parquet file"})
    yield case("a footer of zeros", good[:-108] + bytes(100) + good[-8:], {"": "damaged footer"})
    yield case(
        "a footer that is too long",
        good[:-8] + b"\xff\xff\xff\x7f" + good[-4:],
        {"": "is no Parquet file"},
    )
    yield case(
        "rows without bytes", parquet_of([BODY, None, BODY]), {"0": OK, "1": "no bytes", "2": OK}
    )
    yield case(
        "a damaged page",
        good[:4] + b"\xff" * 20 + good[24:],
        {str(n): "row group 0" for n in range(4)} | {str(n): OK for n in range(4, 8)},
    )


CORPUS: tuple[Callable[[], Iterator[Case]], ...] = (tars, zips, parquets)


def corpus() -> list[Case]:
    return [case for make in CORPUS for case in make()]
