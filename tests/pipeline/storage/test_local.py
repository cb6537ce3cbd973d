"""Folders of this machine: links, pipes, and folders that may not be read."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import storage
from pipeline.storage import local


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def names(folder: Path) -> list[str]:
    return [
        info.uri.removeprefix(f"{folder}/")
        for info in storage.list_objects(str(folder), missing_ok=True)
    ]


def test_two_links_to_one_folder_are_both_followed(tmp_path: Path) -> None:
    touch(tmp_path, "real/a.jpg", "in/b.jpg")
    (tmp_path / "in" / "one").symlink_to(tmp_path / "real")
    (tmp_path / "in" / "two").symlink_to(tmp_path / "real")
    assert names(tmp_path / "in") == ["b.jpg", "one/a.jpg", "two/a.jpg"]


def test_a_link_to_a_listed_folder_above_it_is_not_followed(tmp_path: Path) -> None:
    touch(tmp_path, "x/a.jpg", "x/deep/c.jpg", "y/b.jpg")
    (tmp_path / "x" / "deep" / "up").symlink_to(tmp_path / "x")
    (tmp_path / "x" / "self").symlink_to(".")
    (tmp_path / "x" / "other").symlink_to("../y")
    (tmp_path / "y" / "back").symlink_to("../x")
    assert names(tmp_path / "x") == ["a.jpg", "deep/c.jpg", "other/b.jpg"]


def test_broken_links_stay_listed_and_are_missing(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    (tmp_path / "b.jpg").symlink_to("none.jpg")
    (tmp_path / "c.jpg").symlink_to("c.jpg")
    assert names(tmp_path) == ["a.jpg", "b.jpg", "c.jpg"]
    with pytest.raises(storage.ObjectMissing):
        storage.read_bytes(str(tmp_path / "b.jpg"))
    with pytest.raises(storage.StorageError):
        storage.read_bytes(str(tmp_path / "c.jpg"))


def test_pipes_sockets_and_devices_are_left_out_with_a_word_and_never_opened(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path, "a.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "null.jpg").symlink_to("/dev/null")
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "socket.jpg"))
        assert names(tmp_path) == ["a.jpg"]
        assert "left out 3 that are no files: " in caplog.text
        for name, kind in (
            ("pipe.jpg", "a named pipe"),
            ("null.jpg", "a device"),
            ("socket.jpg", "a socket"),
        ):
            for call in (storage.stat, storage.read_bytes):
                with pytest.raises(storage.ObjectUnreadable, match=f"{name}: is {kind}"):
                    call(str(tmp_path / name))


def test_a_file_that_becomes_a_pipe_before_it_is_opened_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a")
    descriptor = local._open_without_waiting(str(tmp_path / "a"), os.O_RDONLY)
    os.close(descriptor)


def test_a_large_folder_comes_in_several_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_PAGE", 3)
    touch(tmp_path, *(f"{n}.jpg" for n in range(7)), "deep/7.jpg")
    pages = [len(page) for page in storage.iter_pages(str(tmp_path))]
    assert max(pages) == 3
    assert sum(pages) == 8


LIST_AS_NOBODY = """
import os, sys
from pipeline import storage
from pipeline.errors import UserError
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
for uri in sys.argv[1:]:
    try:
        print([info.uri for info in storage.list_objects(uri)])
    except UserError as error:
        print(error)
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may look into. pytest's folders are closed to others."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def test_a_folder_that_may_not_be_read_is_an_error_that_names_it(open_folder: Path) -> None:
    """A process without root's rights lists folders of modes 000 and 444. The second shows only names."""
    touch(open_folder, "a/1.jpg", "none/2.jpg", "names/3.jpg")
    (open_folder / "none").chmod(0)
    (open_folder / "names").chmod(0o444)
    uris = [f"{open_folder}/none", f"{open_folder}/names", str(open_folder), f"{open_folder}/a**"]
    try:
        done = subprocess.run(
            [sys.executable, "-c", LIST_AS_NOBODY, *uris],
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        )
    finally:
        (open_folder / "none").chmod(0o755)
        (open_folder / "names").chmod(0o755)
    none, only_names, both, beside = done.stdout.splitlines()
    assert "access is denied" in none
    assert f"{open_folder}/none: Permission denied" in none
    assert f"{open_folder}/names/3.jpg: Permission denied" in only_names
    assert "access is denied" in both
    assert beside == f"['{open_folder}/a/1.jpg']"
