"""Reading lists of images."""

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


def named(uri: str) -> list[str]:
    return [
        name for table in storage.iter_image_list(uri) for name in table["image_uri"].to_pylist()
    ]


def parquet(columns: dict[str, list[str | None]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def test_a_text_file_is_read_byte_for_byte_and_in_its_order(tmp_path: Path) -> None:
    uri = write(
        tmp_path, "m.txt", "\ufeffs3://b/z%20 \r\n\ns3://b/caf\u00e9\u2028x\n s3://b/a::b?c#d\n/x/y"
    )
    assert named(uri) == [
        "s3://b/z%20 ",
        "s3://b/caf\u00e9\u2028x",
        "s3://b/a::b?c#d",
        "/x/y",
    ]


def test_relative_paths_are_made_absolute(tmp_path: Path) -> None:
    assert named(write(tmp_path, "m.txt", "s3://b/a\n/x/../y\n")) == ["s3://b/a", "/y"]


def test_a_tilde_in_a_list_is_not_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No shell has expanded `~root/x`, so it is the name of a file."""
    monkeypatch.chdir(tmp_path)
    assert named(write(tmp_path, "m.txt", "~root/x.jpg\n")) == [str(tmp_path / "~root" / "x.jpg")]


def test_etags_and_sizes_are_read_if_the_list_has_them(tmp_path: Path) -> None:
    uri = write(tmp_path, "m.csv", "etag,size_bytes,image_uri\ne1,5,s3://b/a\n,,s3://b/b\n")
    (table,) = storage.iter_image_list(uri)
    assert table.to_pylist() == [
        {"image_uri": "s3://b/a", "etag": "e1", "size_bytes": 5},
        {"image_uri": "s3://b/b", "etag": None, "size_bytes": None},
    ]


def test_a_long_list_is_read_in_several_tables(tmp_path: Path) -> None:
    uri = write(tmp_path, "m.txt", "".join(f"s3://b/{n}\n" for n in range(120_001)))
    assert [table.num_rows for table in storage.iter_image_list(uri)] == [50_000, 50_000, 20_001]


@pytest.mark.parametrize(
    "text",
    [
        'size,image_uri\n1,"s3://b/a,""x"""\n2,s3://b/b\n',
        'uri\r\n"s3://b/a,""x"""\r\ns3://b/b\r\n',
        'path,size\n"s3://b/a,""x""",1\ns3://b/b,2\n',
        '"s3://b/a,""x""",1\n\ns3://b/b,2\n',
    ],
)
def test_csv_uris_are_in_the_named_or_the_first_column(tmp_path: Path, text: str) -> None:
    assert named(write(tmp_path, "m.CSV", text)) == ['s3://b/a,"x"', "s3://b/b"]


@pytest.mark.parametrize("column", ["image_uri", "uri"])
def test_parquet_uris_are_in_the_named_column(bucket: str, column: str) -> None:
    data = parquet({"other": ["x", "y", "z"], column: ["s3://b/b", None, "s3://b/a"]})
    storage.write_bytes(f"{bucket}/m.parquet", data)
    assert named(f"{bucket}/m.parquet") == ["s3://b/b", "s3://b/a"]


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("m.txt", b"\n\r\n", "names no image"),
        ("m.txt", b"s3://b/\xff\n", "is not a readable list of images"),
        ("m.csv", b"image_uri\n", "names no image"),
        ("m.csv", b"", "names no image"),
        ("m.csv", b"uri,size_bytes\ns3://b/a,many\n", "is not a readable list of images"),
        ("m.parquet", b"PAR1 not really", "is not a readable list of images"),
        ("m.parquet", parquet({"path": ["s3://b/a"]}), "has the columns path"),
        ("m.parquet", parquet({"uri": [None]}), "names no image"),
    ],
)
def test_a_list_without_readable_uris_is_refused(
    tmp_path: Path, name: str, data: bytes, why: str
) -> None:
    with pytest.raises(UserError, match=rf"{name}: .*{why}"):
        named(write(tmp_path, name, data))


def test_a_list_that_does_not_exist_is_refused(bucket: str) -> None:
    with pytest.raises(UserError, match=r"m\.txt: does not exist"):
        named(f"{bucket}/m.txt")
