"""Zips and Parquet files that `hostile` does not have, with the rows that they must give.

`corpus` has the tars of `odd_tars` too.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from tests.pipeline.storage.archives.hostile import BODY, OK, A, Case, zip_of
from tests.pipeline.storage.archives.odd_tars import STRANGE, escaped, tars


class _Unseekable(io.RawIOBase):
    """A stream into which `zipfile` writes data descriptors."""

    def __init__(self) -> None:
        self.data = b""

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:
        self.data += bytes(data)
        return len(data)


def streamed(method: int) -> bytes:
    out = _Unseekable()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name in ("a.jpg", "b.jpg"):
            with archive.open(name, "w") as file:
                file.write(BODY)
    return out.data


def zip64(size: int, stored: int, method: int = 0) -> bytes:
    """A zip with one entry whose sizes lie in the extra field."""
    data = bytearray(zip_of(("a.jpg", BODY), method=zipfile.ZIP_STORED))
    at = data.index(b"PK\x01\x02")
    extra = struct.pack("<HHQQ", 1, 16, size, stored)
    struct.pack_into("<H", data, at + 10, method)
    struct.pack_into("<II", data, at + 20, 2**32 - 1, 2**32 - 1)
    struct.pack_into("<H", data, at + 30, len(extra))
    data[at + 46 + 5 : at + 46 + 5] = extra
    end = data.rindex(b"PK\x05\x06")
    struct.pack_into("<I", data, end + 12, struct.unpack_from("<I", data, end + 12)[0] + len(extra))
    return bytes(data)


def large_zip(count: int) -> bytes:
    """A zip of many small members, made in a second."""
    entry = struct.Struct("<4s6H3I5H2I")
    local = struct.Struct("<4s5H3I2H")
    out, directory, crc = bytearray(), bytearray(), zlib.crc32(BODY)
    for number in range(count):
        name = b"folder/%09d.jpg" % number
        sizes = (crc, len(BODY), len(BODY))
        directory += entry.pack(
            b"PK\x01\x02", 20, 20, 0, 0, 0, 0, *sizes, len(name), 0, 0, 0, 0, 0, len(out)
        )
        directory += name
        out += local.pack(b"PK\x03\x04", 20, 0, 0, 0, 0, *sizes, len(name), 0) + name + BODY
    end = struct.pack(
        "<4s4H2IH", b"PK\x05\x06", 0, 0, *[count & 0xFFFF] * 2, len(directory), len(out), 0
    )
    return bytes(out + directory + end)


def with_comment(data: bytes, comment: bytes) -> bytes:
    return data[:-2] + struct.pack("<H", len(comment)) + comment


def with_count(data: bytes, count: int) -> bytes:
    """Another number of members in the end record."""
    at = data.rindex(b"PK\x05\x06")
    return data[: at + 8] + struct.pack("<HH", count, count) + data[at + 12 :]


def named(*names: bytes, flags: int = 0) -> bytes:
    """A zip with names of any bytes."""
    stand_ins = [chr(ord("A") + number) * len(name) for number, name in enumerate(names)]
    data = zip_of(*((name, BODY) for name in stand_ins), method=zipfile.ZIP_STORED)
    for stand_in, name in zip(stand_ins, names, strict=True):
        data = data.replace(stand_in.encode(), name)
    return data


def zips() -> Iterator[Case]:
    def case(name: str, data: bytes, rows: dict[str, str]) -> Case:
        return Case(name, ".zip", data, rows)

    both = {"a.jpg": OK, "b.jpg": OK}
    good = zip_of(("a.jpg", BODY), ("b.jpg", BODY), method=zipfile.ZIP_STORED)
    yield case(
        "strange names", zip_of(*((n, BODY) for n in STRANGE)), {escaped(n): OK for n in STRANGE}
    )
    yield case("data descriptors, stored", streamed(zipfile.ZIP_STORED), both)
    yield case("data descriptors, deflated", streamed(zipfile.ZIP_DEFLATED), both)
    yield case("a promise of data descriptors that are not there", _promised(good), both)
    yield case("zip64", zip64(len(BODY), len(BODY)), A)
    yield case("zip64 with sizes of 16 EB", zip64(2**64 - 1, 2**64 - 1), {"a.jpg": "overlaps"})
    yield case("zip64 with a size of 16 EB", zip64(2**64 - 1, len(BODY), 8), {"a.jpg": "unpacks"})
    yield case(
        "zip64 without its extra field",
        zip64(9, 9).replace(struct.pack("<HH", 1, 16), struct.pack("<HH", 2, 16)),
        {"": "lacks the size"},
    )
    fake = {"": "damaged central directory"}
    yield case("an end record that ends its comment", with_comment(good, good[-22:]), fake)
    yield case("an end record in its comment", with_comment(good, good[-22:] + b"!"), both)
    yield case("half an end record in its comment", with_comment(good, b"PK\x05\x06"), both)
    yield case("bytes after its end", good + bytes(99), both)
    yield case("fewer members than its directory", with_count(good, 1), both | {"": "directory"})
    yield case("more members than its directory", with_count(good, 3), both | {"": "directory"})
    yield case("backslashes", named(b"d\\a.jpg"), {"d\\a.jpg": OK})
    yield case(
        "names of MS-DOS", named(b"\x81.jpg", b"\x9a\xff.jpg"), {"%81.jpg": OK, "%9A%FF.jpg": OK}
    )
    yield case("a name twice", zip_twice(), A)
    yield case("a name with a zero byte", named(b"a\0b.jpg"), {"a\0b.jpg": OK})
    yield case("a member without bytes", zip_of(("a.jpg", b"")), {"a.jpg": OK})
    yield case("a program before a zip64", b"#!" * 99 + streamed(zipfile.ZIP_DEFLATED), both)
    yield case("a split archive's mark", b"PK\x07\x08" + good, both)
    yield case("two zips joined", good + zip_of(("c.jpg", BODY)), {"c.jpg": OK})
    yield case("masked headers", _flagged(good, 0x2000), {"a.jpg": "encrypted", "b.jpg": OK})
    yield case("strong encryption", _flagged(good, 0x41), {"a.jpg": "encrypted", "b.jpg": OK})
    yield case("AES", _method(good, 99), {"a.jpg": "AES", "b.jpg": OK})
    yield case("a method of nobody", _method(good, 7777), {"a.jpg": "method 7777", "b.jpg": OK})
    yield case("far more stored than unpacked", _padded_member(), {"a.jpg": "stored"})


def _promised(data: bytes) -> bytes:
    """Bit 3 says that descriptors follow, but the headers have the numbers and nothing follows."""
    out = bytearray(data)
    at = -1
    while (at := out.find(b"PK\x03\x04", at + 1)) >= 0:
        out[at + 6] |= 8
    at = -1
    while (at := out.find(b"PK\x01\x02", at + 1)) >= 0:
        out[at + 8] |= 8
    return bytes(out)


def _flagged(data: bytes, flags: int) -> bytes:
    out = bytearray(data)
    struct.pack_into("<H", out, out.index(b"PK\x01\x02") + 8, flags)
    return bytes(out)


def encrypted(*members: tuple[str, bytes]) -> bytes:
    """A zip whose first member says that it is encrypted."""
    return _flagged(zip_of(*members, method=zipfile.ZIP_STORED), 1)


def _method(data: bytes, method: int) -> bytes:
    out = bytearray(data)
    struct.pack_into("<H", out, out.index(b"PK\x01\x02") + 10, method)
    return bytes(out)


def _padded_member() -> bytes:
    """A deflated member of a few bytes in a megabyte of empty blocks."""
    packer = zlib.compressobj(wbits=-15)
    stored = (
        b"".join(b"\0\0\0\xff\xff" for _ in range(200_000)) + packer.compress(BODY) + packer.flush()
    )
    data = bytearray(zip_of(("a.jpg", stored), method=zipfile.ZIP_STORED))
    for mark, at in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        place = data.index(mark) + at
        struct.pack_into("<H", data, place, 8)
        struct.pack_into("<I", data, place + 6, zlib.crc32(BODY))
        struct.pack_into("<I", data, place + 14, len(BODY))
    return bytes(data)


def zip_twice() -> bytes:
    return named(b"a.jpg", b"a.jpg")


def _table(kind: pa.DataType | None = None, **columns: list[object]) -> bytes:
    out = io.BytesIO()
    arrays = {name: pa.array(values, kind) for name, values in columns.items()}
    pq.write_table(pa.table(arrays), out)
    return out.getvalue()


def parquets() -> Iterator[Case]:
    def case(name: str, data: bytes, rows: dict[str, str]) -> Case:
        return Case(name, ".parquet", data, rows)

    three = {str(n): OK for n in range(3)}
    for kind in (pa.binary(), pa.large_binary(), pa.binary_view()):
        yield case(f"a column of {kind}", _table(kind, image=[BODY] * 3), three)
    dictionary = pa.array([BODY] * 3).dictionary_encode()
    yield case("a dictionary", _written(pa.table({"image": dictionary})), three)
    large = pa.struct([("bytes", pa.large_binary()), ("path", pa.large_string())])
    yield case(
        "a struct of large_binary", _table(large, image=[{"bytes": BODY, "path": None}] * 3), three
    )
    yield case(
        "rows that are null, or only have a path",
        _table(
            pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
            image=[{"bytes": BODY, "path": "a"}, None, {"bytes": None, "path": "b"}],
        ),
        {"0": OK, "1": "no bytes", "2": "no bytes"},
    )
    for options in (
        {"compression": "zstd", "data_page_version": "2.0"},
        {"compression": "brotli", "use_dictionary": False, "data_page_size": 100},
        {"compression": "none", "write_page_checksum": True, "write_page_index": True},
        {"column_encoding": {"image": "DELTA_BYTE_ARRAY"}, "use_dictionary": False},
        {"column_encoding": {"image": "DELTA_LENGTH_BYTE_ARRAY"}, "use_dictionary": False},
        {"row_group_size": 1},
    ):
        table = pa.table({"image": [BODY] * 3, "label": [1, 2, 3]})
        yield case(f"{options}", _written(table, **options), three)
    yield case(
        "a column of labels", _written(pa.table({"label": ["x"] * 3, "image": [BODY] * 3})), three
    )
    yield case("encrypted", _written(pa.table({"image": [BODY]}))[:-4] + b"PARE", {"": "encrypted"})


def _written(table: pa.Table, **options: object) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out, **options)
    return out.getvalue()


CORPUS: tuple[Callable[[], Iterator[Case]], ...] = (tars, zips, parquets)


def corpus() -> list[Case]:
    return [case for make in CORPUS for case in make()]
