"""Images become tars: the same tars for the same plan, each once."""

from __future__ import annotations

import json
import subprocess
import tarfile
from pathlib import Path

import pytest

from pipeline import storage
from pipeline.config.pack import PackConfig
from pipeline.errors import JobError
from pipeline.pack import run
from pipeline.scoring.selection import select
from tests.pipeline.storage.archives.hostile import BODY, parquet_of, tar_of


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
