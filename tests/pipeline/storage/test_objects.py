"""Reading and writing objects: a real S3 server (moto), local files, and fsspec's memory file system."""

from __future__ import annotations

import os
import pickle
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pipeline import storage
from pipeline.errors import ObjectMissing, UserError
from pipeline.storage.uris import compile_pattern

ODD_KEYS = (
    "a b.jpg",
    "a%20b.jpg",
    "a+b.jpg",
    "a#b.jpg",
    "a?b.jpg",
    "a?versionId=3",
    "zip://a::b.jpg",
    "a*b.jpg",
    "a[1].jpg",
    "{a}~!$&'(),;=@^`|.jpg",
    "caf\u00e9.jpg",  # NFC
    "cafe\u0301.jpg",  # NFD, another object
    "\U0001f34e.jpg",
    "/leading.jpg",
    "double//slash.jpg",
    "up/../down.jpg",
    "./here.jpg",
    "back\\slash.jpg",
    "tab\there.jpg",
    "label=1/CASE.JPG",
    "label=1/case.jpg",
    "x" * 200,
)


@pytest.fixture(params=["s3", "local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty folder in each kind of storage."""
    if request.param == "s3":
        yield request.getfixturevalue("bucket") + "/place"
    elif request.param == "local":
        yield str(tmp_path / "place")
    else:
        yield "memory://place"
        MemoryFileSystem.store.clear()


def test_join_puts_one_slash_between_parts() -> None:
    assert storage.join("s3://b/", "/a/", "b c") == "s3://b/a/b c"
    assert storage.join("s3://b", "a") == "s3://b/a"
    assert storage.join("/", "a") == "/a"
    assert storage.join("plain", "a", "b") == "plain/a/b"


def test_absolute_changes_only_local_paths() -> None:
    assert storage.absolute("x/../y") == os.path.join(os.getcwd(), "y")
    assert storage.absolute("file:///a/./b") == "file:///a/b"
    assert storage.absolute("s3://b/x/../y//z%20") == "s3://b/x/../y//z%20"


def test_a_leading_tilde_is_the_home_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("~/x") == str(tmp_path / "home" / "x")
    assert storage.absolute("~") == str(tmp_path / "home")
    assert storage.absolute("~root/x") == os.path.expanduser("~root/x")
    for literal in ("./~/x", "a/~/x", "~no-such-user/x"):
        assert storage.absolute(literal) == os.path.join(tmp_path, literal.removeprefix("./"))
    assert storage.absolute("file:///~/x") == "file:///~/x"
    assert storage.absolute("s3://b/~/x") == "s3://b/~/x"
    storage.write_bytes("~/photos/a.jpg", b"1")
    (tmp_path / "~").write_bytes(b"2")
    assert storage.read_bytes(str(tmp_path / "home" / "photos" / "a.jpg")) == b"1"
    assert storage.read_bytes("./~") == b"2"
    expected = [str(tmp_path / "home" / "photos" / "a.jpg")]
    assert [info.uri for info in storage.list_objects("~/photos")] == expected
    assert [info.uri for info in storage.list_objects("~/photos/*.jpg")] == expected


def test_stem_removes_the_last_suffix() -> None:
    assert storage.stem("s3://b/d.e/a.b.JPG") == "a.b"
    assert storage.stem("/x/.hidden") == ".hidden"


def test_a_written_object_is_listed_and_read(folder: str) -> None:
    for name, data in (("b.bin", b"22"), ("sub/a.bin", b"1"), ("empty", b"")):
        storage.write_bytes(storage.join(folder, name), data)
    listed = storage.list_objects(folder)
    assert [info.uri for info in listed] == [
        storage.join(folder, name) for name in ("b.bin", "empty", "sub/a.bin")
    ]
    assert [info.size for info in listed] == [2, 0, 1]
    assert [storage.read_bytes(info.uri, etag=info.etag) for info in listed] == [b"22", b"", b"1"]
    assert storage.stat(listed[0].uri) == listed[0]


def test_a_second_write_replaces_the_object(folder: str) -> None:
    uri = storage.join(folder, "a")
    storage.write_bytes(uri, b"old")
    storage.write_bytes(uri, b"new one")
    assert storage.read_bytes(uri) == b"new one"
    assert [info.size for info in storage.list_objects(folder)] == [7]


def test_an_object_that_was_replaced_after_listing_is_changed(folder: str) -> None:
    uri = storage.join(folder, "a")
    storage.write_bytes(uri, b"as listed")
    (info,) = storage.list_objects(uri)
    storage.write_bytes(uri, b"replaced since")
    with pytest.raises(storage.ObjectChanged) as caught:
        storage.read_bytes(uri, etag=info.etag)
    assert caught.value.status == "changed"
    assert uri in str(caught.value)


def test_a_missing_object_is_missing(folder: str) -> None:
    storage.write_bytes(storage.join(folder, "existing"), b"")
    with pytest.raises(storage.ObjectMissing) as caught:
        storage.read_bytes(storage.join(folder, "missing"))
    assert caught.value.status == "missing"
    assert storage.exists(storage.join(folder, "existing"))
    assert not storage.exists(storage.join(folder, "missing"))


def test_an_object_above_max_bytes_is_too_large(folder: str) -> None:
    uri = storage.join(folder, "a")
    storage.write_bytes(uri, b"12345")
    assert storage.read_bytes(uri, max_bytes=5) == b"12345"
    with pytest.raises(storage.ObjectTooLarge) as caught:
        storage.read_bytes(uri, max_bytes=4)
    assert caught.value.status == "too_large"


def test_a_second_create_is_refused_and_keeps_the_first_content(folder: str) -> None:
    uri = storage.join(folder, "shard")
    assert storage.create_bytes(uri, b"first")
    assert not storage.create_bytes(uri, b"second")
    assert storage.create_bytes(uri, b"first"), "the same content may be ours, its answer lost"
    assert storage.read_bytes(uri) == b"first"


def test_only_one_of_many_creators_succeeds(bucket: str, tmp_path: Path) -> None:
    contents = [f"writer {n}".encode() for n in range(16)]
    for folder in (bucket, str(tmp_path)):
        uri = storage.join(folder, "raced")
        with ThreadPoolExecutor(16) as pool:
            won = list(pool.map(storage.create_bytes, [uri] * 16, contents))
        assert sum(won) == 1
        assert storage.read_bytes(uri) == contents[won.index(True)]
        assert [info.uri for info in storage.list_objects(folder)] == [uri], (
            "no temporary file is left"
        )


def test_a_store_with_exclusive_create_passes_the_check_every_time(folder: str) -> None:
    storage.check_exclusive_create(folder)
    storage.check_exclusive_create(folder)
    assert len(storage.list_objects(folder)) == 1


def test_keys_keep_every_byte(bucket: str, s3_client: Any) -> None:
    for key in ODD_KEYS:
        storage.write_bytes(f"{bucket}/{key}", key.encode())
    name = bucket.removeprefix("s3://")
    assert {o["Key"] for o in s3_client.list_objects_v2(Bucket=name)["Contents"]} == set(ODD_KEYS)
    listed = storage.list_objects(bucket)
    assert [info.uri for info in listed] == sorted(f"{bucket}/{key}" for key in ODD_KEYS)
    for info in listed:
        key = info.uri.removeprefix(f"{bucket}/")
        assert storage.read_bytes(info.uri, etag=info.etag) == key.encode()
        assert storage.exists(info.uri)
        assert storage.list_objects(info.uri) == [info], (
            "a name with glob characters is a name first"
        )


def test_local_names_keep_every_byte(tmp_path: Path) -> None:
    names = [
        "a b",
        "a%20b",
        "a+b#c?d",
        "x::y",
        "a*b",
        "a[1]",
        "caf\u00e9",
        "cafe\u0301",
        "new\nline",
        "\U0001f34e" * 60,
    ]
    for name in names:
        storage.write_bytes(storage.join(str(tmp_path), name), name.encode())
    assert sorted(os.listdir(tmp_path)) == sorted(names)
    for info in storage.list_objects(str(tmp_path)):
        assert storage.read_bytes(info.uri) == os.path.basename(info.uri).encode()


def test_a_glob_matches_within_folders_and_two_stars_across(folder: str) -> None:
    for name in ("a1.jpg", "a2.png", "b1.jpg", "sub/a3.jpg", "sub/deep/a4.jpg"):
        storage.write_bytes(storage.join(folder, name), b"x")

    def matches(pattern: str) -> list[str]:
        infos = storage.list_objects(storage.join(folder, pattern), missing_ok=True)
        return [info.uri.removeprefix(f"{folder}/") for info in infos]

    assert matches("*.jpg") == ["a1.jpg", "b1.jpg"]
    assert matches("a?.*") == ["a1.jpg", "a2.png"]
    assert matches("[b-z]*.jpg") == ["b1.jpg"]
    assert matches("**/*.jpg") == ["a1.jpg", "b1.jpg", "sub/a3.jpg", "sub/deep/a4.jpg"]
    assert matches("*/a3.jpg") == ["sub/a3.jpg"]
    assert matches("c*") == []


def test_a_folder_does_not_include_folders_whose_names_begin_alike(bucket: str) -> None:
    for name in ("train/a", "train_old/b", "train.txt"):
        storage.write_bytes(f"{bucket}/{name}", b"x")
    assert [info.uri for info in storage.list_objects(f"{bucket}/train")] == [f"{bucket}/train/a"]
    assert len(storage.list_objects(f"{bucket}/train*")) == 1, "a star stays within a folder"
    assert len(storage.list_objects(f"{bucket}/train**")) == 3


def test_suffixes_are_compared_without_regard_to_case(folder: str) -> None:
    for name in ("a.JPG", "b.jpg", "c.txt", "jpg"):
        storage.write_bytes(storage.join(folder, name), b"x")
    objects = storage.list_objects(folder, suffixes=(".jpg",))
    assert [storage.basename(info.uri) for info in objects] == ["a.JPG", "b.jpg"]
    (named,) = storage.list_objects(storage.join(folder, "c.txt"), suffixes=(".jpg",))
    assert storage.basename(named.uri) == "c.txt", "who names one object means that one"


def test_folder_markers_are_not_listed_as_objects(bucket: str, s3_client: Any) -> None:
    name = bucket.removeprefix("s3://")
    s3_client.put_object(Bucket=name, Key="f/", Body=b"")
    s3_client.put_object(Bucket=name, Key="f/a", Body=b"")
    assert [info.uri for info in storage.list_objects(f"{bucket}/f")] == [f"{bucket}/f/a"]


def test_a_listing_of_several_pages_is_complete(bucket: str, s3_client: Any) -> None:
    name = bucket.removeprefix("s3://")
    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(
            lambda n: s3_client.put_object(Bucket=name, Key=f"p/{n:04}", Body=b""), range(1003)
        ):
            pass
    listed = storage.list_objects(bucket)
    assert [info.uri for info in listed] == [f"{bucket}/p/{n:04}" for n in range(1003)]


def test_a_listing_is_never_cached(bucket: str, s3_client: Any) -> None:
    storage.write_bytes(f"{bucket}/a", b"1")
    assert len(storage.list_objects(bucket)) == 1
    s3_client.put_object(Bucket=bucket.removeprefix("s3://"), Key="b", Body=b"")
    s3_client.put_object(Bucket=bucket.removeprefix("s3://"), Key="a", Body=b"now 13 bytes.")
    assert [info.size for info in storage.list_objects(bucket)] == [13, 0]


def test_a_uri_without_objects_is_a_user_error(bucket: str, tmp_path: Path) -> None:
    for uri in (f"{bucket}/none", str(tmp_path / "none"), "memory://none", str(tmp_path)):
        with pytest.raises(UserError, match="names no object|does not exist"):
            storage.list_objects(uri)
        assert storage.list_objects(uri, missing_ok=True) == []


def test_a_missing_bucket_is_a_user_error(s3: str) -> None:
    for call in (storage.list_objects, storage.exists, storage.check_exclusive_create):
        with pytest.raises(UserError, match="s3://no-such-bucket"):
            call("s3://no-such-bucket/a")
    with pytest.raises(UserError, match="s3://no-such-bucket"):
        storage.list_objects("s3://no-such-bucket/a", missing_ok=True)
    with pytest.raises(storage.ObjectMissing):
        storage.read_bytes("s3://no-such-bucket/a")


def test_an_unknown_scheme_is_a_user_error() -> None:
    with pytest.raises(UserError, match="foo://"):
        storage.list_objects("foo://bucket/a")


def test_one_client_serves_many_threads(bucket: str) -> None:
    uris = [f"{bucket}/{n}" for n in range(100)]
    with ThreadPoolExecutor(32) as pool:
        list(pool.map(storage.write_bytes, uris, [uri.encode() for uri in uris]))
        infos = list(pool.map(storage.stat, uris))
        read = list(pool.map(lambda info: storage.read_bytes(info.uri, etag=info.etag), infos))
    assert read == [uri.encode() for uri in uris]


def test_a_local_name_that_is_not_utf8_is_a_user_error(tmp_path: Path) -> None:
    with open(os.fsencode(tmp_path) + b"/\xff.jpg", "wb"):
        pass
    with pytest.raises(UserError, match="not UTF-8"):
        storage.list_objects(str(tmp_path))


def test_a_local_file_without_permission_is_denied(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    (tmp_path / "a").write_bytes(b"x")
    (tmp_path / "a").chmod(0)
    with pytest.raises(storage.ObjectDenied):
        storage.read_bytes(str(tmp_path / "a"))


def test_a_failed_write_leaves_no_file(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(storage.StorageError):
        storage.write_bytes(str(tmp_path / "taken"), b"x")
    assert os.listdir(tmp_path) == ["taken"]


def test_a_broken_link_is_listed_and_reading_it_gives_missing(tmp_path: Path) -> None:
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "gone.jpg")
    (info,) = storage.list_objects(str(tmp_path))
    with pytest.raises(storage.ObjectMissing):
        storage.read_bytes(info.uri, etag=info.etag)


def test_a_link_to_a_parent_folder_is_followed_once(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a").write_bytes(b"x")
    (tmp_path / "real" / "loop").symlink_to(tmp_path)
    assert len(storage.list_objects(str(tmp_path))) == 1


def test_folders_are_uploaded_and_downloaded_whole(folder: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in ("a.txt", "sub/b c.txt", "sub/deep/d"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name)
    storage.upload_folder(source, folder)
    target = tmp_path / "target"
    storage.download_folder(folder, target)
    files = {
        p.relative_to(target).as_posix(): p.read_text() for p in target.rglob("*") if p.is_file()
    }
    assert files == {name: name for name in ("a.txt", "sub/b c.txt", "sub/deep/d")}


def test_a_key_cannot_leave_the_folder_it_is_downloaded_to(bucket: str, tmp_path: Path) -> None:
    storage.write_bytes(f"{bucket}/f/../../evil", b"x")
    with pytest.raises(UserError, match="outside"):
        storage.download_folder(f"{bucket}/f", tmp_path / "target")
    assert not (tmp_path / "evil").exists()


def test_pyarrow_writes_to_the_same_uris(folder: str) -> None:
    filesystem, path = storage.arrow_filesystem(storage.join(folder, "t.parquet"))
    filesystem.create_dir(path.rpartition("/")[0])
    pq.write_table(pa.table({"a": [1, 2]}), path, filesystem=filesystem)
    assert storage.read_bytes(storage.join(folder, "t.parquet"))[:4] == b"PAR1"


def test_a_pickled_file_system_carries_no_credentials(bucket: str) -> None:
    filesystem, _ = storage.arrow_filesystem(bucket)
    pickled = pickle.dumps(filesystem)
    assert os.environ["AWS_SECRET_ACCESS_KEY"].encode() not in pickled
    assert os.environ["AWS_ACCESS_KEY_ID"].encode() not in pickled


def test_errors_survive_pickling() -> None:
    error = pickle.loads(pickle.dumps(storage.ObjectDenied("s3://b/a: no")))
    assert isinstance(error, storage.ObjectDenied)
    assert (error.status, str(error)) == ("denied", "s3://b/a: no")


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("b/*.jpg", ["b/a.jpg", "b/.jpg", "b/new\nline.jpg"], ["b/c/a.jpg", "b/a.jpgx", "b/a.JPG"]),
        ("b/**/*.jpg", ["b/a.jpg", "b/c/a.jpg", "b/c/d/a.jpg"], ["b/a.png", "bb/a.jpg"]),
        ("b/x**", ["b/x", "b/xy", "b/x/y/z"], ["b/y"]),
        ("b/?", ["b/a", "b/\u00e9"], ["b/ab", "b//"]),
        ("b/[a-c]", ["b/a", "b/c"], ["b/d", "b/ab"]),
        ("b/[!a-c]", ["b/d"], ["b/a", "b//"]),
        ("b/[]]", ["b/]"], ["b/a"]),
        ("b/[^&\\]", ["b/^", "b/&", "b/\\"], ["b/a"]),
        ("b/[unclosed", ["b/[unclosed"], ["b/u"]),
        ("b/a+(1).x", ["b/a+(1).x"], ["b/aa1.x", "b/a+(1)yx"]),
    ],
)
def test_a_pattern_matches_by_folder(pattern: str, matching: list[str], other: list[str]) -> None:
    compiled = compile_pattern(pattern)
    assert [text for text in matching if not compiled.fullmatch(text)] == []
    assert [text for text in other if compiled.fullmatch(text)] == []


def test_a_pattern_with_a_backward_range_is_a_user_error() -> None:
    with pytest.raises(UserError, match="z-a"):
        compile_pattern("b/[z-a]")


def test_a_path_that_can_be_made_is_writable(tmp_path: Path) -> None:
    (tmp_path / "report.html").touch()
    for path in ("", "new/deep", "report.html"):
        storage.check_writable(str(tmp_path / path))
        storage.check_writable(f"file://{tmp_path / path}")
    storage.check_writable("s3://no-such-bucket/out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html"], "it wrote something"


def test_a_path_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="/file is not a folder"):
        storage.check_writable(str(tmp_path / "file" / "out"))


def test_a_read_only_file_system_is_refused(tmp_path: Path) -> None:
    """Also for root, whom permissions do not stop."""
    mount = ["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount a file system here")
    try:
        for path in ("", "out", "new/deep"):
            with pytest.raises(UserError, match="is read-only, or belongs to another user"):
                storage.check_writable(str(tmp_path / path))
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_an_object_that_was_just_written_is_young(bucket: str, tmp_path: Path) -> None:
    for folder in (bucket, str(tmp_path)):
        storage.write_bytes(f"{folder}/a", b"a")
        age_s = storage.age_s(f"{folder}/a")
        assert age_s is not None
        assert -1 <= age_s < 20
        with pytest.raises(ObjectMissing):
            storage.age_s(f"{folder}/b")


def test_a_store_without_a_clock_says_so() -> None:
    storage.write_bytes("memory://a/1", b"one")
    assert storage.age_s("memory://a/1") is None


def test_removed_objects_are_gone_and_a_second_time_is_no_error(
    bucket: str, tmp_path: Path
) -> None:
    for folder in (bucket, str(tmp_path)):
        storage.write_bytes(f"{folder}/a", b"a")
        storage.delete(f"{folder}/a")
        storage.delete(f"{folder}/a")
        assert not storage.exists(f"{folder}/a")


def test_a_prefix_is_no_pattern(bucket: str, tmp_path: Path) -> None:
    for folder in (bucket, str(tmp_path)):
        for name in ("x[1]/lease-1", "x[1]/lease-2", "x[1]/other", "x1/lease-3"):
            storage.write_bytes(f"{folder}/{name}", b"a")
        found = [
            storage.basename(info.uri) for info in storage.list_prefix(f"{folder}/x[1]/lease-")
        ]
        assert sorted(found) == ["lease-1", "lease-2"]
        assert storage.list_prefix(f"{folder}/none/lease-") == []
