"""Reading lists of images."""

from __future__ import annotations

import gzip
import io
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import storage
from pipeline.errors import UserError
from pipeline.storage import Access, ListOptions

STRICT = Access(any_scheme=False, http=False, private_hosts=False)


def write(folder: Path, name: str, data: bytes | str) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return str(path)


def named(uri: str, **options: Any) -> list[str]:
    tables = storage.iter_image_list(uri, ListOptions(**options))
    return [name for table in tables for name in table["image_uri"].to_pylist()]


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


def test_absolute_paths_are_normalized(tmp_path: Path) -> None:
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
        '"s3://b/a,""x"""\n\ns3://b/b\n',
    ],
)
def test_csv_uris_are_in_the_named_or_the_only_column(tmp_path: Path, text: str) -> None:
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
        ("m.csv", b"uri,size_bytes\ns3://b/a,many\n", "line 2: has 'many' for size_bytes"),
        ("m.parquet", b"PAR1 not really", "is not a readable list of images"),
        ("m.parquet", parquet({"place": ["s3://b/a"]}), "has the columns 'place'"),
        ("m.parquet", parquet({"uri": [None]}), "names no image"),
    ],
)
def test_a_list_without_readable_uris_is_refused(
    tmp_path: Path, name: str, data: bytes, why: str
) -> None:
    with pytest.raises(UserError, match=rf"{name}[:,] .*{why}"):
        named(write(tmp_path, name, data))


def test_a_list_that_does_not_exist_is_refused(bucket: str) -> None:
    with pytest.raises(UserError, match=r"m\.txt: does not exist"):
        named(f"{bucket}/m.txt")


def test_relative_entries_are_relative_to_the_list(
    tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = "a.jpg\n./deep/b.jpg\n../c.jpg\n"
    write(tmp_path, "in/m.txt", text)
    assert named("in/m.txt") == [
        f"{tmp_path}/in/a.jpg",
        f"{tmp_path}/in/deep/b.jpg",
        f"{tmp_path}/c.jpg",
    ]
    assert named(f"file://{tmp_path}/in/m.txt")[0] == f"file://{tmp_path}/in/a.jpg"
    storage.write_bytes(f"{bucket}/in/m.txt", text.encode())
    assert named(f"{bucket}/in/m.txt") == [
        f"{bucket}/in/a.jpg",
        f"{bucket}/in/deep/b.jpg",
        f"{bucket}/c.jpg",
    ]


def test_an_entry_above_its_bucket_is_refused(bucket: str) -> None:
    storage.write_bytes(f"{bucket}/in/m.txt", b"a.jpg\n../../other/b.jpg\n")
    with pytest.raises(UserError, match=r"m\.txt, line 2: names \.\./\.\./other/b\.jpg, outside"):
        named(f"{bucket}/in/m.txt")


def test_a_list_that_meant_the_working_directory_is_refused_with_both_places(
    tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "photos/a.jpg", b"x")
    text = "# mine\nphotos/a.jpg\nphotos/b.jpg\n"
    write(tmp_path, "lists/m.txt", text)
    storage.write_bytes(f"{bucket}/m.txt", text.encode())
    for uri, folder in (("lists/m.txt", f"{tmp_path}/lists"), (f"{bucket}/m.txt", bucket)):
        with pytest.raises(UserError) as caught:
            named(uri)
        message = str(caught.value)
        assert f"{folder}/photos/a.jpg" in message
        assert f"{tmp_path}/photos/a.jpg" in message
        assert "--list-root ." in message
    both = [f"{tmp_path}/photos/a.jpg", f"{tmp_path}/photos/b.jpg"]
    assert named("lists/m.txt", root=".") == both
    write(tmp_path, "lists/photos/a.jpg", b"x")  # now it exists relative to the list too
    assert named("lists/m.txt")[0] == f"{tmp_path}/lists/photos/a.jpg"


def test_a_root_can_lie_in_a_store(tmp_path: Path) -> None:
    uri = write(tmp_path, "m.txt", "a.jpg\ns3://b/c.jpg\n")
    assert named(uri, root="s3://photos/2026/") == ["s3://photos/2026/a.jpg", "s3://b/c.jpg"]


def test_a_remote_list_names_no_local_paths(bucket: str) -> None:
    member = "zip://1.jpg::/etc/x.zip"
    for entry in ("/etc/a.jpg", "file:///etc/a.jpg", "local://x", member):
        storage.write_bytes(f"{bucket}/m.txt", f"s3://b/a.jpg\n{entry}\n".encode())
        with pytest.raises(UserError, match=r"m\.txt, line 2: names the local path"):
            named(f"{bucket}/m.txt")


def test_http_is_refused_unless_it_is_allowed(tmp_path: Path) -> None:
    for entry in ("http://h/a.jpg", "HTTP://h/a.jpg", "tar://1.jpg::http://h/x.tar"):
        uri = write(tmp_path, "m.csv", f"uri\nhttps://h/a.jpg\n{entry}\n")
        with pytest.raises(UserError, match=r"m\.csv, line 3: .*--allow-http"):
            named(uri, access=STRICT)
        assert named(uri)[1] == entry


def test_a_scheme_that_nothing_reads_is_kept_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    uri = write(tmp_path, "m.txt", "s3://b/a.jpg\nreference://b/x.jpg\nreference://b/y.jpg\n")
    assert len(named(uri, access=STRICT)) == 3
    assert caplog.text.count("line 2: nothing here reads reference://b/x.jpg") == 1


def test_a_folder_or_a_glob_of_lists_is_one_list(tmp_path: Path, bucket: str) -> None:
    for part in "12":
        for place in (tmp_path, bucket):
            uri = f"{place}/.in/m.csv/part-{part}.csv.gz"
            data = gzip.compress(f"uri\ns3://b/{part}\nx/{part}\n".encode())
            Path(uri).parent.mkdir(parents=True, exist_ok=True) if place == tmp_path else None
            storage.write_bytes(uri, data)
            storage.write_bytes(f"{place}/.in/m.csv/_SUCCESS", b"")
            storage.write_bytes(f"{place}/.in/m.csv/.part-{part}.csv.crc", b"\0")
            storage.write_bytes(f"{place}/.in/m.csv/_old/part-{part}.csv", b"\0")
    for place in (str(tmp_path), bucket):
        # The folder m.csv is the list, so its entries are relative to the folder that holds it.
        wanted = ["s3://b/1", f"{place}/.in/x/1", "s3://b/2", f"{place}/.in/x/2"]
        for name in ("m.csv", "m.csv/", "m.csv/*.csv.gz", "**/part-?.csv.gz"):
            assert named(f"{place}/.in/{name}") == wanted


def test_partitions_belong_to_the_list_they_lie_in(tmp_path: Path) -> None:
    for day in "12":
        write(tmp_path, f"m.parquet/day={day}/0.parquet", parquet({"path": [f"{day}.jpg"]}))
    assert named(f"{tmp_path}/m.parquet") == [f"{tmp_path}/1.jpg", f"{tmp_path}/2.jpg"]


def test_a_folder_that_is_no_list_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "m.csv/a.jpg", b"x")
    with pytest.raises(UserError, match=r"m\.csv: holds no list. Expected files \.txt"):
        named(f"{tmp_path}/m.csv")
    write(tmp_path, "d.parquet/0.parquet", parquet({"uri": ["s3://b/a"]}))
    write(tmp_path, "d.parquet/_delta_log/0.json", b"{}")
    with pytest.raises(UserError, match="is a Delta table"):
        named(f"{tmp_path}/d.parquet")


def test_a_list_whose_name_looks_like_a_glob_is_read(tmp_path: Path) -> None:
    assert named(write(tmp_path, "m[1].csv", "uri\ns3://b/a\n")) == ["s3://b/a"]


def test_a_line_with_a_uri_that_no_store_takes_stays_an_entry(tmp_path: Path) -> None:
    odd = ["s3:///x.jpg", "s3://b", "https://[::1/x.jpg", "https://", "zip://a", "nope://b/x"]
    assert named(write(tmp_path, "m.txt", "\n".join(odd))) == odd
    for uri in odd:
        with pytest.raises(storage.StorageError):
            storage.read_bytes(uri, deadline_s=0.1)
        with pytest.raises(storage.StorageError):
            storage.stat(uri, deadline_s=0.1)


def test_rows_without_a_uri_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    uri = write(tmp_path, "m.csv", "uri,label\ns3://b/a,cat\n,dog\n")
    assert named(uri) == ["s3://b/a"]
    assert "1 rows name no image, 1 do" in caplog.text


def test_a_list_that_is_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.txt")
    with pytest.raises(UserError, match="is a named pipe"):
        named(f"{tmp_path}/m.txt")


def test_file_uris_may_name_this_machine_and_may_be_relative(tmp_path: Path) -> None:
    entries = f"file://localhost{tmp_path}/a.jpg\nfile://b.jpg\nFILE:///c%20d.jpg\n"
    uri = write(tmp_path, "m.txt", entries)
    assert named(uri) == [
        f"file://localhost{tmp_path}/a.jpg",
        f"{tmp_path}/b.jpg",
        "FILE:///c%20d.jpg",
    ]
    write(tmp_path, "a.jpg", b"a")
    assert storage.read_bytes(f"file://localhost{tmp_path}/a.jpg") == b"a"


def test_a_member_of_a_missing_archive_names_the_archive(tmp_path: Path) -> None:
    with pytest.raises(storage.ObjectMissing, match=r"x\.zip: No such file"):
        storage.read_bytes(f"zip://1.jpg::{tmp_path}/x.zip")
