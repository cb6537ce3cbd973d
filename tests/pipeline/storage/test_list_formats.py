"""Each format of a list, as programs write it."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import storage
from pipeline.errors import UserError
from pipeline.storage import ListOptions

A, B = "s3://b/a.jpg", "s3://b/b.jpg"


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., list[tuple[str, str | None, int | None]]]:
    """Write a list and read it: (URI, ETag, size) of each image."""

    def write_and_read(name: str, data: str | bytes, **options: Any) -> list[Any]:
        path = tmp_path / name
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        known = ListOptions(image_suffixes=(".jpg", ".png"), **options)
        tables = storage.iter_image_list(str(path), known)
        return [tuple(row.values()) for table in tables for row in table.to_pylist()]

    return write_and_read


def uris(rows: list[Any]) -> list[str]:
    return [row[0] for row in rows]


def parquet(table: pa.Table | dict[str, Any]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), sink)
    return sink.getvalue()


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
@pytest.mark.parametrize("name", ["m.csv", "m.tsv", "m.csv.gz", "m.TSV.GZ", "m.txt"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_tables_of_any_delimiter_are_read_by_the_names_of_columns(
    read: Any, compress: Any, name: str, delimiter: str, end: str
) -> None:
    lines = (
        ["Label", " URL ", "Size"],
        ["cat", f'"{A}"', "10.0"],
        ["a dog", B, ""],
    )
    text = "\ufeff" + end.join(delimiter.join(line) for line in lines)
    assert read(name, compress(text.encode())) == [(A, None, 10), (B, None, None)]


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("path,uri", f"no,{A}"),
        ("file_name,url", f"no,{A}"),
        ("FILE_NAME,etag", f"{A},"),
        ("bucket,key", "b,a.jpg"),
        ("KEY,x,Bucket", "a.jpg,1,b"),
        ("key,path", f"no,{A}"),
        ("id, Image_URI", f"1, {A}"),
    ],
)
def test_the_column_is_found_by_its_name(read: Any, header: str, row: str) -> None:
    assert uris(read("m.csv", f"{header}\n{row}\n")) == [A]


def test_a_column_can_be_named(read: Any) -> None:
    text = f"uri,Source Ref\nno,{A}\n"
    assert uris(read("m.csv", text, uri_column="source ref")) == [A]
    line = json.dumps({"source-ref": A, "uri": "no"})
    assert uris(read("m.jsonl", line, uri_column="source-ref")) == [A]
    assert uris(read("m.parquet", parquet({"ref": [A], "uri": ["no"]}), uri_column="REF")) == [A]
    for name, data in (("m.csv", text), ("m.txt", f"{A}\n"), ("n.csv", f"{A}\n")):
        with pytest.raises(UserError, match="but no column 'other'"):
            read(name, data, uri_column="other")


@pytest.mark.parametrize(
    ("name", "text", "seen"),
    [
        ("m.csv", "id,photo\n1,s3://b/a.jpg\n", "'id', 'photo'"),
        ("m.csv", "s3://b/a.jpg,cat\n", "'s3://b/a.jpg', 'cat'"),
        ("m.csv", "s3://b/a.jpg;cat\n", "'s3://b/a.jpg', 'cat'"),
        ("m.csv", "photo\ns3://b/a.jpg\n", "'photo'"),
        ("m.csv", "bucket,photos/a.jpg\n", "'bucket', 'photos/a.jpg'"),
        ("m.tsv", "photo\tid\ns3://b/a.jpg\t1\n", "'photo', 'id'"),
        ("m.jsonl", '{"photo": "s3://b/a.jpg"}', "'photo'"),
        ("m.csv", "key,size\na.jpg,1\n", "'key', 'size'"),
    ],
)
def test_a_list_without_a_known_column_is_refused_with_its_columns(
    read: Any, name: str, text: str, seen: str
) -> None:
    with pytest.raises(UserError, match=seen) as caught:
        read(name, text)
    assert "--uri-column" in str(caught.value)


@pytest.mark.parametrize("name", ["m.csv", "m.tsv"])
def test_one_column_without_a_header_is_read_from_its_first_row(
    read: Any, tmp_path: Path, name: str
) -> None:
    assert uris(read(name, "photos/a\nb.jpg\n")) == [f"{tmp_path}/photos/a", f"{tmp_path}/b.jpg"]
    assert uris(read(name, "# two\n\nb.JPG\n\nc.jpg\n")) == [
        f"{tmp_path}/b.JPG",
        f"{tmp_path}/c.jpg",
    ]


@pytest.mark.parametrize(
    ("text", "place", "why"),
    [
        ("uri,etag,size\ns3://b/a,e,1\ns3://b/b\n", "line 3", "has 1 cells, expected 3"),
        ('# c\nuri,label\n"s3://b/a","x\ny"\ns3://b/b\n', "line 5", "has 1 cells"),
        ("uri\ns3://b/a,b.jpg\n", "line 2", "has 2 cells, expected 1"),
        ("uri,size\ns3://b/a,640x480\n", "line 2", "'640x480' for size_bytes"),
        ("uri,size\ns3://b/a,10.5\n", "line 2", "'10.5'"),
        ("uri,size\ns3://b/a,-1\n", "line 2", "'-1'"),
        ("uri,size\ns3://b/a,inf\n", "line 2", "'inf'"),
        (f"uri,size\ns3://b/a,{'9' * 5000}\n", "line 2", f"'{'9' * 40}' for size_bytes"),
        ("bucket,key\n,a.jpg\n", "line 2", "without a bucket"),
    ],
)
def test_a_bad_row_is_refused_with_its_line(read: Any, text: str, place: str, why: str) -> None:
    with pytest.raises(UserError, match=rf"m\.csv, {place}: .*{why}"):
        read("m.csv", text)


def test_blank_lines_and_blank_cells_at_the_end_are_no_rows(read: Any) -> None:
    text = f"uri,label\n\n{A},x,,\n   \n,,\n{B},y\n"
    assert uris(read("m.csv", text)) == [A, B]


def test_the_line_that_excel_writes_first_is_no_header(read: Any) -> None:
    assert uris(read("m.csv", f"sep=;\r\nuri;label\r\n{A};cat\r\n")) == [A]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('uri,label\ns3://b/a,"cat\ns3://b/b,dog\n', 2),
        ('uri,label\ns3://b/a,"c\nat"\n"s3://b/b"x,dog\n', 4),
        ('"uri" ,"label"\ns3://b/a,cat\n', 1),
    ],
)
def test_a_wrong_quote_is_refused_with_its_line_and_swallows_no_rows(
    read: Any, text: str, line: int
) -> None:
    with pytest.raises(UserError, match=rf"m\.csv, line {line}: is not a readable list of images"):
        read("m.csv", text)


@pytest.mark.parametrize("name", ["m.csv", "m.txt", "m.jsonl", "m.csv.gz"])
def test_a_byte_that_is_not_utf8_is_refused_with_its_line(read: Any, name: str) -> None:
    lines = b'"s3://b/a.jpg"\n' * 2999 + b'"s3://b/caf\xe9.jpg"\n'
    data = gzip.compress(lines) if name.endswith(".gz") else lines
    with pytest.raises(UserError, match=rf"{name}, line 3000: .*byte 0xe9.*Save it as UTF-8"):
        read(name, data)


@pytest.mark.parametrize(
    ("text", "twice"),
    [
        ("path,path\na.jpg,b.jpg\n", "'path'"),
        ("Path,x,path\na.jpg,1,b.jpg\n", "'Path'"),
        ("uri,etag,ETag\na.jpg,1,2\n", "'etag'"),
        ("bucket,key,BUCKET\nb,a.jpg,c\n", "'bucket'"),
    ],
)
def test_two_columns_of_one_name_are_refused_where_they_are_read(
    read: Any, text: str, twice: str
) -> None:
    with pytest.raises(UserError, match=f"has two columns {twice}. Rename or remove"):
        read("m.csv", text)
    names, *rows = [line.split(",") for line in text.splitlines()]
    table = pa.Table.from_arrays([pa.array([cell]) for cell in rows[0]], names=names)
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    with pytest.raises(UserError, match=f"has two columns {twice}"):
        read("m.parquet", buffer.getvalue())


def test_two_columns_of_one_name_are_fine_where_nothing_reads_them(read: Any) -> None:
    assert uris(read("m.csv", f"uri,x,x\n{A},1,2\n")) == [A]
    text = f"path,Path\nother,{A}\n"
    assert uris(read("m.csv", text, uri_column="Path")) == [A]


def test_a_parquet_list_with_damaged_blocks_is_refused(read: Any) -> None:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"uri": [f"s3://b/{n}.jpg" for n in range(9999)]}), buffer)
    data = bytearray(buffer.getvalue())
    data[500:800] = b"\xff" * 300
    with pytest.raises(UserError, match="is not a readable list of images"):
        read("m.parquet", bytes(data))


def test_etags_as_bytes_are_texts(read: Any) -> None:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"uri": [A], "etag": [b'"abc"']}), buffer)
    assert read("m.parquet", buffer.getvalue()) == [(A, "abc", None)]


@pytest.mark.parametrize("header", ["bucket,key", '"Bucket","Key","VersionId"'])
def test_an_s3_batch_manifest_with_a_header_is_refused(read: Any, header: str) -> None:
    with pytest.raises(UserError, match=r"m\.csv, line 1: is a header"):
        read("m.csv", f"{header}\nb,a.jpg\n", format="s3-batch")


@pytest.mark.parametrize(
    "etag", ["abc", '"""abc"""', '"abc"', "'abc'", "&quot;abc&quot;", ' "abc"']
)
def test_quotes_of_etags_are_stripped(read: Any, etag: str) -> None:
    assert read("m.csv", f"uri,ETag\n{A},{etag}\n") == [(A, "abc", None)]


@pytest.mark.parametrize("null", ["", "NaN", "None", "null", "<NA>"])
def test_what_programs_write_for_unknown_is_unknown(read: Any, null: str) -> None:
    assert read("m.csv", f"uri,etag,size_bytes\n{A},{null},{null}\n") == [(A, None, None)]


def test_json_lines_are_objects_or_texts(read: Any) -> None:
    lines = [
        json.dumps({"IMAGE_URI": A, "etag": '"abc"', "size_bytes": 10.0, "boxes": [1]}),
        "",
        json.dumps({"bucket": "b", "key": "b.jpg", "size": None}),
        json.dumps("s3://b/ c.jpg "),
    ]
    assert read("m.jsonl", "\n".join(lines)) == [
        (A, "abc", 10),
        (B, None, None),
        ("s3://b/ c.jpg ", None, None),
    ]
    assert uris(read("m.jsonl.gz", gzip.compress("\r\n".join(lines).encode()))) == [
        A,
        B,
        "s3://b/ c.jpg ",
    ]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "is no JSON"),
        ("[1]", "is a list"),
        ("null", "is null"),
        ("{}", "has no keys"),
        ("[" * 100_000, "is no JSON"),
        ('{"uri": "s3://b/a", "URI": "s3://b/b"}', "has two keys 'uri'"),
        ('{"uri": 3}', "has 3 for the URI"),
        ('{"uri": {"x": 1}}', "for the URI"),
        ('{"uri": "\\ud800.jpg"}', "or a later one names .*Write whole characters"),
    ],
)
def test_a_bad_json_line_is_refused_with_its_number(read: Any, line: str, why: str) -> None:
    with pytest.raises(UserError, match=rf"line 2: .*{why}"):
        read("m.jsonl", f"\n{line}\n")


def test_parquet_columns_have_any_case_and_any_type_of_text(read: Any) -> None:
    for kind in (pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())):
        table = pa.table(
            {
                "x": [1, 2, 3],
                "URL": pa.array([A, None, B], pa.string()).cast(kind),
                "Size": [10.0, None, None],
                "ETAG": ['"abc"', None, ""],
            }
        )
        assert read("m.parquet", parquet(table)) == [(A, "abc", 10), (B, None, None)]
    table = {"key": ["a.jpg"], "size": [7], "bucket": ["b"]}
    assert read("m.parquet", parquet(table)) == [(A, None, 7)]


def test_a_parquet_column_of_numbers_is_refused(read: Any) -> None:
    with pytest.raises(UserError, match="its column 'path' has the type int64"):
        read("m.parquet", parquet({"path": [1, 2]}))
    with pytest.raises(UserError, match=r"m\.parquet, row 2: has '1\.5'"):
        read("m.parquet", parquet({"path": [A, B], "size": [1.0, 1.5]}))


def test_a_manifest_of_s3_batch_has_encoded_keys_and_no_header(read: Any) -> None:
    text = "b,a.jpg\nb,100%25+caf%C3%A9%2B.jpg,v1\n"
    wanted = [A, "s3://b/100% caf\u00e9+.jpg"]
    assert uris(read("m.csv", text, format="s3-batch")) == wanted
    assert uris(read("manifest", text, format="s3-batch")) == wanted
    with pytest.raises(UserError, match="line 2: has the fields 'b'"):
        read("m.csv", "b,a.jpg\nb\n", format="s3-batch")


def test_comments_of_a_text_are_left_out_and_names_with_a_hash_are_not(
    read: Any, tmp_path: Path
) -> None:
    text = f"# my photos\n#\n#1.jpg\n  \n{A}\n#2 old ones\n"
    assert uris(read("m.txt", text)) == [f"{tmp_path}/#1.jpg", A]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ("uri\na\n".encode("utf-16"), "is UTF-16 text"),
        ("uri\na\n".encode("utf-16-le"), "UTF-16 text"),
        ("uri\na\n".encode("utf-32"), "is UTF-16 text"),
        (b"PK\x03\x04xx", "is a ZIP or Excel file"),
        (parquet({"uri": [A]}), "is a Parquet file"),
        (gzip.compress(gzip.compress(b"uri\na\n", mtime=0), mtime=0), "is gzip in gzip"),
        (gzip.compress(b'"s3://b/a"\n' * 9999, mtime=0)[:-9], "is not a readable list"),
        (b'"caf\xe9.jpg"\n', "is not a readable list"),
    ],
)
@pytest.mark.parametrize("name", ["m.csv", "m.txt", "m.jsonl", "m.csv.gz"])
def test_a_file_that_is_no_text_is_refused_in_words(
    read: Any, name: str, data: bytes, why: str
) -> None:
    with pytest.raises(UserError, match=why):
        read(name, data)


def test_line_ends_of_old_macs_are_refused_in_a_text(read: Any) -> None:
    with pytest.raises(UserError, match="line ends of the kind CR"):
        read("m.txt", f"{A}\r{B}\r")
    assert uris(read("m.csv", f"uri,x\r{A},1\r{B},2\r")) == [A, B]
