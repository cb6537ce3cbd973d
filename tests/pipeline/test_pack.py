"""Images become tars: the same tars for the same plan, each once."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from pipeline import storage
from pipeline.config.pack import PackConfig
from pipeline.errors import JobError, ObjectUnreachable, UserError
from pipeline.pack import run
from pipeline.scoring.selection import select
from pipeline.storage.archives import unpacking
from tests.pipeline.storage.archives.hostile import BODY, link, parquet_of, tar_of

JOB = Path(__file__).resolve().parents[2] / "jobs" / "pack.py"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """30 images of 100 KB, and a note."""
    folder = tmp_path / "in"
    for number in range(30):
        path = folder / f"{number % 3}" / f"{number:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes((number,)) * 100_000)
    (folder / "notes.txt").write_bytes(b"x")
    return folder


def tars(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((output / "tars").iterdir())}


def test_each_image_lies_in_one_tar_that_tar_reads(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(PackConfig(images=str(images), output=str(out), size="1MB"))
    made = tars(out)
    assert len(made) == 3
    names = []
    for name in made:
        listing = subprocess.run(
            ["tar", "--list", "--file", out / "tars" / name],
            capture_output=True,
            text=True,
            check=True,
        )
        assert listing.stderr == ""
        names += listing.stdout.split()
    assert sorted(names) == sorted(f"{n % 3}/{n:02d}.jpg" for n in range(30))
    assert select(f"{out}/tars/*.tar").num_images == 30


def test_a_run_that_stopped_goes_on_and_makes_the_same_tars(images: Path, tmp_path: Path) -> None:
    config = PackConfig(images=str(images), output=str(tmp_path / "out"), size="1MB")
    run(config)
    before = tars(tmp_path / "out")
    (tmp_path / "out/tars" / min(before)).unlink()
    run(config)
    assert tars(tmp_path / "out") == before
    (images / "0/new.jpg").write_bytes(b"new")
    run(config)
    after = tars(tmp_path / "out")
    assert {name: after[name] for name in before} == before
    (new,) = after.keys() - before.keys()
    with tarfile.open(tmp_path / "out/tars" / new) as tar:
        assert tar.getnames() == ["0/new.jpg"]


def test_the_same_images_make_the_same_bytes_in_a_bucket(
    bucket: str, images: Path, tmp_path: Path
) -> None:
    run(PackConfig(images=str(images), output=f"{bucket}/out", size="1MB"))
    run(PackConfig(images=str(images), output=str(tmp_path / "out"), size="1MB"))
    here = tars(tmp_path / "out")
    there = {
        storage.basename(info.uri): storage.read_bytes(info.uri)
        for info in storage.list_objects(f"{bucket}/out/tars")
    }
    assert here == there


def test_an_image_that_cannot_be_read_stops_the_job_or_is_listed(
    images: Path, tmp_path: Path
) -> None:
    (images / "0/gone.jpg").symlink_to("nowhere")
    config = PackConfig(images=str(images), output=str(tmp_path / "1"), size="8MB")
    with pytest.raises(JobError, match="1 of 31 images cannot be read"):
        run(config)
    assert not (tmp_path / "1/tars").exists()
    allowed = PackConfig(
        images=str(images), output=str(tmp_path / "2"), size="8MB", max_failures=0.1
    )
    run(allowed)
    (listed,) = (tmp_path / "2/left_out").iterdir()
    ((uri, cause),) = json.loads(listed.read_text()).items()
    assert uri.endswith("gone.jpg")
    assert cause.startswith("missing")
    (tar,) = tars(tmp_path / "2").values()
    assert len(tar) > 3_000_000


def test_compressed_tars_are_repacked_with_their_labels(tmp_path: Path) -> None:
    plain = tmp_path / "x.tar"
    members = [(f"{n}.{s}", BODY * 3000) for n in range(8) for s in ("jpg", "json")]
    plain.write_bytes(tar_of(*members))
    subprocess.run(["gzip", plain], check=True)
    run(PackConfig(images=f"{plain}.gz", output=str(tmp_path / "out"), size="1MB"))
    names = []
    for name in tars(tmp_path / "out"):
        with tarfile.open(tmp_path / "out/tars" / name) as tar:
            inside = tar.getnames()
            assert len(inside) % 2 == 0  # an image and its label stay together
            names += inside
    assert names == [name for name, _ in members]
    assert len(tars(tmp_path / "out")) > 1


def test_rows_of_parquet_files_get_a_suffix_by_their_content(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(parquet_of([BODY, BODY]))
    run(PackConfig(images=f"{tmp_path}/x.parquet", output=str(tmp_path / "out")))
    (name,) = tars(tmp_path / "out")
    with tarfile.open(tmp_path / "out/tars" / name) as tar:
        assert [n.rpartition("/")[2] for n in tar.getnames()] == ["0.jpeg", "1.jpeg"]


def test_an_image_that_was_replaced_lies_only_in_the_tar_of_its_new_version(
    images: Path, tmp_path: Path
) -> None:
    """As when the bucket changes while a job packs it, which then stops."""
    config = PackConfig(images=str(images), output=str(tmp_path / "out"), size="1MB")
    run(config)
    gone = min(tars(tmp_path / "out"))
    with tarfile.open(tmp_path / "out/tars" / gone) as tar:
        name = tar.getnames()[0]
    (tmp_path / "out/tars" / gone).unlink()  # it was not written yet
    (images / name).write_bytes(b"new")
    run(config)
    found = contents(tmp_path / "out")
    assert [data for path, data in found if path == name] == [b"new"]
    assert len(found) == 30


def contents(output: Path) -> list[tuple[str, bytes]]:
    found = []
    for name in tars(output):
        with tarfile.open(output / "tars" / name) as tar:
            for member in tar.getmembers():
                file = tar.extractfile(member)
                assert file is not None
                found.append((member.name, file.read()))
    return found


def test_an_image_that_changes_while_it_is_packed_stops_the_job_which_then_goes_on(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = PackConfig(images=str(images), output=str(tmp_path / "out"), size="1MB")
    read = storage.read_bytes

    def changing(uri: str, **arguments: object) -> bytes:
        if uri.endswith("15.jpg"):
            Path(uri).write_bytes(b"new")
        return read(uri, **arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(storage, "read_bytes", changing)
        with pytest.raises(JobError, match="1 of 30 images cannot be read.*15.jpg: changed"):
            run(config)
    run(config)
    found = dict(contents(tmp_path / "out"))
    assert found["0/15.jpg"] == b"new"
    assert len(contents(tmp_path / "out")) == len(found) == 30


def test_a_killed_job_goes_on_and_packs_each_image_once(images: Path, tmp_path: Path) -> None:
    """It is killed with SIGKILL as soon as one tar is there."""
    out = tmp_path / "out"
    command = [sys.executable, JOB, "--images", images, "--output", out, "--size", "1MB"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(out.glob("tars/*.tar")):
        time.sleep(0.001)
    process.kill()
    process.wait()
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    run(PackConfig(images=str(images), output=str(tmp_path / "whole"), size="1MB"))
    assert tars(out) == tars(tmp_path / "whole")


def test_another_size_or_folder_is_refused(images: Path, tmp_path: Path) -> None:
    """The tars that exist hold other images than those of the same names would."""
    out = str(tmp_path / "out")
    run(PackConfig(images=str(images), output=out, size="1MB"))
    before = tars(tmp_path / "out")
    for config in (
        PackConfig(images=str(images), output=out, size="2MB"),
        PackConfig(images=str(images), output=out, size="2MB", dry_run=True),
        PackConfig(images=str(images / "0"), output=out, size="1MB"),
    ):
        with pytest.raises(UserError, match="or another --output"):
            run(config)
    assert tars(tmp_path / "out") == before


@pytest.mark.parametrize("output", ["in/packed", "packed", "tars"])
def test_an_output_that_the_images_match_is_refused(
    output: str, images: Path, tmp_path: Path
) -> None:
    glob = {"in/packed": str(images), "packed": f"{tmp_path}/*/*/*.tar", "tars": f"{tmp_path}/**"}
    with pytest.raises(UserError, match="lies inside --images"):
        run(PackConfig(images=glob[output], output=str(tmp_path / output)))


def test_what_is_left_out_stays_so(images: Path, tmp_path: Path) -> None:
    """A job is killed after left_out/ and before the tar. Meanwhile the image can be read again."""
    (images / "0/gone.jpg").symlink_to(tmp_path / "later.jpg")
    config = PackConfig(
        images=str(images), output=str(tmp_path / "out"), size="8MB", max_failures=0.1
    )
    run(config)
    (before,) = tars(tmp_path / "out").items()
    (tmp_path / "out/tars" / before[0]).unlink()
    (tmp_path / "later.jpg").write_bytes(b"later")
    run(config)
    assert tars(tmp_path / "out")[before[0]] == before[1]
    new = set(tars(tmp_path / "out")) - {before[0]}
    assert len(new) == 1  # its ETag is known now, so it was planned again
    assert dict(contents(tmp_path / "out"))["0/gone.jpg"] == b"later"


def test_a_store_that_does_not_answer_leaves_nothing_out(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(uri: str, **arguments: object) -> bytes:
        raise ObjectUnreachable(f"{uri}: no answer")

    config = PackConfig(
        images=str(images), output=str(tmp_path / "out"), size="1MB", max_failures=1
    )
    monkeypatch.setattr(storage, "read_bytes", silent)
    with pytest.raises(JobError, match="no answer"):
        run(config)
    assert not (tmp_path / "out/tars").exists()
    assert not (tmp_path / "out/left_out").exists()


def test_above_max_failures_no_image_is_left_out(images: Path, tmp_path: Path) -> None:
    for number in range(9):
        (images / f"0/gone{number}.jpg").symlink_to("nowhere")
    config = PackConfig(
        images=str(images), output=str(tmp_path / "out"), size="8MB", max_failures=0.01
    )
    with pytest.raises(JobError, match="of 39 images cannot be read, more than"):
        run(config)
    assert not (tmp_path / "out/left_out").exists()


def test_links_in_a_compressed_tar_become_files(tmp_path: Path) -> None:
    plain = tmp_path / "x.tar"
    plain.write_bytes(
        tar_of(
            ("a.jpg", BODY),
            link("b.jpg", "a.jpg", tarfile.LNKTYPE),
            link("c.jpg", "d.jpg"),
            ("d.jpg", BODY + b"d"),
            link("e.jpg", "nowhere"),
        )
    )
    subprocess.run(["gzip", plain], check=True)
    run(PackConfig(images=f"{plain}.gz", output=str(tmp_path / "out")))
    assert contents(tmp_path / "out") == [
        ("a.jpg", BODY),
        ("b.jpg", BODY),
        ("c.jpg", BODY + b"d"),
        ("d.jpg", BODY + b"d"),
    ]


def test_compressed_tars_of_one_name_in_two_folders_give_two_tars(tmp_path: Path) -> None:
    for folder in ("1", "2"):
        (tmp_path / "in" / folder).mkdir(parents=True)
        (tmp_path / "in" / folder / "x.tar").write_bytes(tar_of((f"{folder}.jpg", BODY)))
        subprocess.run(["gzip", tmp_path / "in" / folder / "x.tar"], check=True)
    run(PackConfig(images=f"{tmp_path}/in/*/x.tar.gz", output=str(tmp_path / "out")))
    assert list(tars(tmp_path / "out")) == ["1-x-0000.tar", "2-x-0000.tar"]


def test_a_compressed_tar_that_is_a_bomb_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacking, "ALLOWED_BYTES", 2**20)
    (tmp_path / "x.tar").write_bytes(tar_of(("a.jpg", bytes(20_000_000))))
    subprocess.run(["gzip", tmp_path / "x.tar"], check=True)
    with pytest.raises(UserError, match="unpacks to more than 200 times"):
        run(PackConfig(images=f"{tmp_path}/x.tar.gz", output=str(tmp_path / "out")))
