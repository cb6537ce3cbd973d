"""Lists of URIs that somebody else made."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import storage
from pipeline.errors import UserError


def write(folder: Path, name: str, data: bytes | str) -> str:
    (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return str(folder / name)


def parquet(columns: dict[str, list[str | None]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def test_text_is_taken_byte_for_byte_and_in_its_order(tmp_path: Path) -> None:
    uri = write(
        tmp_path, "m.txt", "\ufeffs3://b/z%20 \r\n\ns3://b/caf\u00e9\u2028x\n s3://b/a::b?c#d\n/x/y"
    )
    assert storage.read_manifest(uri) == [
        "s3://b/z%20 ",
        "s3://b/caf\u00e9\u2028x",
        "s3://b/a::b?c#d",
        "/x/y",
    ]


def test_an_image_named_twice_is_meant_once(tmp_path: Path) -> None:
    uri = write(tmp_path, "m.txt", "s3://b/a\ns3://b/b\ns3://b/a\n/x/../y\n/y\n")
    assert storage.read_manifest(uri) == ["s3://b/a", "s3://b/b", "/y"]


@pytest.mark.parametrize(
    "text",
    [
        'size,image_uri\n1,"s3://b/a,""x"""\n2,s3://b/b\n',
        'uri\r\n"s3://b/a,""x"""\r\ns3://b/b\r\n',
        'path,size\n"s3://b/a,""x""",1\ns3://b/b,2\n',
        '"s3://b/a,""x""",1\n\ns3://b/b,2\n',
    ],
)
def test_csv_has_its_uris_in_the_named_or_the_first_column(tmp_path: Path, text: str) -> None:
    assert storage.read_manifest(write(tmp_path, "m.CSV", text)) == ['s3://b/a,"x"', "s3://b/b"]


@pytest.mark.parametrize("column", ["image_uri", "uri"])
def test_parquet_has_its_uris_in_the_named_column(bucket: str, column: str) -> None:
    data = parquet({"other": ["x", "y", "z"], column: ["s3://b/b", None, "s3://b/a"]})
    storage.write_bytes(f"{bucket}/m.parquet", data)
    assert storage.read_manifest(f"{bucket}/m.parquet") == ["s3://b/b", "s3://b/a"]


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("m.txt", b"\n\r\n", "names no image"),
        ("m.txt", b"s3://b/\xff\n", "not a readable manifest"),
        ("m.csv", b"image_uri\n", "names no image"),
        ("m.csv", b"", "names no image"),
        ("m.parquet", b"PAR1 not really", "not a readable manifest"),
        ("m.parquet", parquet({"path": ["s3://b/a"]}), "has the columns path"),
        ("m.parquet", parquet({"uri": [None]}), "names no image"),
    ],
)
def test_what_names_no_image_is_refused(tmp_path: Path, name: str, data: bytes, why: str) -> None:
    with pytest.raises(UserError, match=rf"{name}: .*{why}"):
        storage.read_manifest(write(tmp_path, name, data))


def test_a_manifest_that_is_not_there_is_refused(bucket: str) -> None:
    with pytest.raises(UserError, match=r"m\.txt: is not there"):
        storage.read_manifest(f"{bucket}/m.txt")
