"""Before a run continues: the plan belongs to the shards, and the shards are what was written."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline import record, storage
from pipeline.errors import UserError
from pipeline.record import checks, plan
from pipeline.record.checks import Checked, check_record, move_damaged
from pipeline.storage import ObjectInfo
from tests.pipeline.record_cases import (
    RUN,
    committer,
    extend,
    last_manifest,
    make_older,
    objects,
    planned,
    result,
    rows_of,
    score_all,
    written,
    wrong_hashes,
)


@pytest.fixture(params=["local", "s3"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty output, on a disk and on S3."""
    if request.param == "s3":
        return f"{request.getfixturevalue('bucket')}/out"
    return str(tmp_path / "out")


def images(*names: str) -> list[ObjectInfo]:
    return [ObjectInfo(f"s3://b/{name}.jpg", "e", 1) for name in names]


def check(output: str, *, verify: bool = False) -> Checked:
    return check_record(output, RUN, plan.read(output), verify=verify)


def remove(output: str, prefix: str) -> None:
    for name in objects(output):
        if name.startswith(prefix):
            storage.delete(storage.join(output, name))


def copy(output: str, new: str, *prefixes: str) -> None:
    for name, data in objects(output).items():
        if name.startswith(prefixes):
            storage.write_bytes(storage.join(new, name), data)


def shard(output: str, number: int) -> str:
    return record.shard_uri(output, RUN, number)


def replace(uri: str, change: Callable[[bytes], bytes]) -> None:
    storage.write_bytes(uri, change(storage.read_bytes(uri)))


def flipped(place: int) -> Callable[[bytes], bytes]:
    """Change one bit, so that the size stays."""
    return lambda data: data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]


def test_an_undisturbed_output_passes_and_no_shard_is_read(
    output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    score_all(output, planned(output, 10))
    checked = check(output)
    assert (sorted(checked.shards), checked.damaged) == ([0, 1, 2, 3], {})
    monkeypatch.setattr(checks, "read_shard", None)
    assert check(output).damaged == {}


@pytest.mark.parametrize(
    ("lost", "why"),
    [
        (["plans/"], "the plan has no generation"),
        (["plans/000002.json"], "the plan has 4 shards"),
    ],
)
def test_a_plan_that_lacks_shards_is_refused_and_nothing_is_written(
    output: str, lost: list[str], why: str
) -> None:
    score_all(output, planned(output, 10))
    score_all(output, extend(output, images("x", "y"), shard_size=3))
    for prefix in lost:
        remove(output, prefix)
    before = objects(output)
    with pytest.raises(UserError, match=f"{why}.*--rebuild-plan"):
        check(output)
    assert objects(output) == before


def test_a_plan_of_another_output_is_refused(output: str, tmp_path: Path) -> None:
    score_all(output, planned(output, 10))
    other = str(tmp_path / "other")
    planned(other, 30)
    remove(output, "plans/")
    copy(other, output, "plans/")
    with pytest.raises(UserError, match=r"is not the plan of .*belong to another output"):
        check(output)


def test_a_plan_that_was_made_anew_is_refused_although_it_has_the_same_images(output: str) -> None:
    """Its hash differs. The same images in other shards would look alike at first."""
    score_all(output, planned(output, 10))
    remove(output, "plans/")
    planned(output, 10)
    with pytest.raises(UserError, match="names another plan"):
        check(output)


def test_a_plan_that_only_another_run_needs_is_refused_too(output: str) -> None:
    score_all(output, planned(output, 10), run_id="f" * 16)
    remove(output, "plans/")
    with pytest.raises(UserError, match=f"is not the plan of .*scored/{'f' * 16}/00000003"):
        check(output)
    planned(output, 10)
    with pytest.raises(UserError, match=f"is not the plan of .*scored/{'f' * 16}/"):
        check(output)


@pytest.mark.parametrize("manifest", [True, False])
def test_an_older_output_is_compared_with_the_plan_row_by_row(output: str, manifest: bool) -> None:
    score_all(output, planned(output, 10))
    make_older(output)
    if not manifest:
        remove(output, "runs/")
    assert check(output).damaged == {}
    plan_of_today = {name: data for name, data in objects(output).items() if "plans/" in name}
    remove(output, "plans/")
    extend(output, images(*(f"{n:03d}" for n in range(3, 13))), shard_size=3)  # others, as many
    with pytest.raises(UserError, match=r"these are not the 3 planned images.*--rebuild-plan"):
        check(output)
    remove(output, "plans/")
    for name, data in plan_of_today.items():
        storage.write_bytes(storage.join(output, name), data)
    score_all(output, plan.read(output))
    (generation,) = last_manifest(output)["generations"]
    assert {entry["plan_sha256"] for entry in last_manifest(output)["shards"]} == {generation}


def test_a_copied_output_goes_on_at_its_new_place(output: str, tmp_path: Path) -> None:
    """On a disk, all ETags differ there: the shards are compared by hash once."""
    score_all(output, planned(output, 10))
    new = str(tmp_path / "copied")
    copy(output, new, "plans/", "scored/", "runs/")
    assert check(new).damaged == {}
    score_all(new, plan.read(new))
    assert wrong_hashes(new) == []
    assert {entry["uri"] for entry in last_manifest(new)["shards"]} == {
        f"scored/{RUN}/{n:08d}.parquet" for n in range(4)
    }


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda data: data[:300],
    "empty": lambda data: b"",
    "a bit": flipped(700),
    "a bit of the footer": flipped(-60),
    "no Parquet": lambda data: b"<Error/>",
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_shard_is_named_and_the_others_are_not(output: str, kind: str) -> None:
    score_all(output, planned(output, 10))
    replace(shard(output, 1), DAMAGE[kind])
    checked = check(output)
    assert list(checked.damaged) == [1]
    assert list(checked.causes) == [storage.absolute(shard(output, 1))]


def test_a_shard_with_the_bytes_of_another_is_damaged(output: str) -> None:
    score_all(output, planned(output, 12))
    other = storage.read_bytes(shard(output, 2))
    replace(shard(output, 1), lambda _: other)
    checked = check(output)
    assert "holds the rows of shard 2" in checked.damaged[1]
    make_older(output)  # an older file does not say its number
    assert "shard 1 does not match the plan" in check(output).damaged[1]


def test_a_shard_of_another_plan_is_damaged_where_others_prove_the_plan(
    output: str, tmp_path: Path
) -> None:
    other = str(tmp_path / "other")
    score_all(other, planned(other, 10))
    score_all(output, planned(output, 10))
    foreign = storage.read_bytes(shard(other, 2))
    replace(shard(output, 2), lambda _: foreign)
    assert "made for another plan" in check(output).damaged[2]


@pytest.mark.parametrize("manifest", [True, False])
def test_a_shard_of_another_run_is_damaged(output: str, manifest: bool) -> None:
    """Both runs have the same plan and the same images, so only the rows tell."""
    work = planned(output, 10)
    score_all(output, work)
    score_all(output, work, run_id="f" * 16)
    other = storage.read_bytes(record.shard_uri(output, "f" * 16, 1))
    storage.write_bytes(shard(output, 1), other)
    if not manifest:
        remove(output, f"runs/{RUN}/manifest")
    found = check(output)
    assert found.damaged == {1: "shard 1 holds rows of run ffffffffffffffff"}


@pytest.mark.parametrize("kind", ["a copy", "empty"])
def test_a_stray_file_beyond_the_plan_is_damaged_and_can_be_moved(output: str, kind: str) -> None:
    score_all(output, planned(output, 10))
    data = storage.read_bytes(shard(output, 1)) if kind == "a copy" else b""
    storage.write_bytes(shard(output, 99), data)
    found = check(output)
    assert list(found.damaged) == [99]
    move_damaged(output, RUN, found)
    assert not check(output).damaged
    assert len(check(output).shards) == 4


def test_a_stray_file_of_another_run_is_logged(
    output: str, caplog: pytest.LogCaptureFixture
) -> None:
    score_all(output, planned(output, 10))
    storage.write_bytes(record.shard_uri(output, "f" * 16, 99), b"")
    assert not check(output).damaged
    assert "00000099.parquet is damaged" in caplog.text


def test_damage_that_no_listing_shows_is_found_by_hash(tmp_path: Path) -> None:
    output = str(tmp_path)
    score_all(output, planned(output, 10))
    path = Path(shard(output, 1))
    times = path.stat()
    replace(str(path), flipped(path.stat().st_size // 2))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert check(output).damaged == {}
    assert list(check(output, verify=True).damaged) == [1]


def test_a_shard_whose_metadata_was_altered_is_found_by_hash(output: str) -> None:
    """No checksum of Parquet protects the names of the classes."""
    score_all(output, planned(output, 10))
    replace(shard(output, 0), lambda data: data.replace(b'["cat"]', b'["cow"]'))
    assert "the manifest has another SHA-256" in check(output).damaged[0]


def test_a_shard_that_was_lost_and_written_again_is_no_damage(output: str) -> None:
    """A driver wrote it, and was killed before its manifest."""
    work = planned(output, 10)
    score_all(output, work)
    storage.delete(shard(output, 1))
    writer = committer(output, work, [1])
    writer.add(result(rows_of(work, [1]), author="another model"))
    writer.close()
    for verify in (False, True):
        assert check(output, verify=verify).damaged == {}
    assert wrong_hashes(output) == [f"scored/{RUN}/00000001.parquet"]
    score_all(output, work)
    assert wrong_hashes(output) == []


def test_a_cut_shard_among_many_that_no_manifest_describes_is_found(tmp_path: Path) -> None:
    """Only a sample of them is read; a shard that was cut is one of the smallest."""
    output = str(tmp_path)
    work = planned(output, 400, shard_size=1)
    writer = committer(output, work)
    writer.add(result(rows_of(work)))
    writer.close()
    replace(shard(output, 177), lambda data: data[:200])
    assert list(check(output).damaged) == [177]


def test_lost_shards_are_logged(output: str, caplog: pytest.LogCaptureFixture) -> None:
    score_all(output, planned(output, 10))
    storage.delete(shard(output, 1))
    with caplog.at_level(logging.WARNING, logger="pipeline"):
        assert sorted(check(output).shards) == [0, 2, 3]
    assert "1 shards that its last manifest describes are gone" in caplog.text


def test_another_driver_may_have_extended_the_plan(output: str) -> None:
    old = planned(output, 10)
    score_all(output, extend(output, images("x"), shard_size=3))
    checked = check_record(output, RUN, old)
    assert (checked.plan.num_shards, sorted(checked.shards)) == (5, [0, 1, 2, 3, 4])


def test_a_damaged_shard_is_moved_and_scored_again_under_its_number(output: str) -> None:
    work = planned(output, 10)
    score_all(output, work)
    cut = storage.read_bytes(shard(output, 1))[:300]
    for again in range(2):  # the second repair finds the name taken
        replace(shard(output, 1), lambda _, again=again: cut + bytes(again))  # type: ignore[misc]
        move_damaged(output, RUN, check(output))
        score_all(output, work)
    assert written(output)["image_uri"].to_pylist() == rows_of(work)["image_uri"].to_pylist()
    assert wrong_hashes(output) == []
    moved = {name: data for name, data in objects(output).items() if "/damaged/" in name}
    folder = f"runs/{RUN}/damaged"
    assert moved == {
        f"{folder}/00000001.parquet": cut,
        f"{folder}/2-00000001.parquet": cut + b"\0",
    }


def test_a_shard_that_another_driver_repaired_is_not_deleted(
    output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = planned(output, 10)
    score_all(output, work)
    whole = storage.read_bytes(shard(output, 1))
    replace(shard(output, 1), lambda data: data[:300])
    checked, create = check(output), storage.create_bytes

    def repaired_meanwhile(uri: str, data: bytes) -> bool:
        storage.write_bytes(shard(output, 1), whole)
        return create(uri, data)

    monkeypatch.setattr(storage, "create_bytes", repaired_meanwhile)
    move_damaged(output, RUN, checked)
    assert storage.read_bytes(shard(output, 1)) == whole


def test_another_object_among_the_shards_is_refused(output: str) -> None:
    score_all(output, planned(output, 10))
    storage.write_bytes(storage.join(output, "scored", RUN, "00000001 (1).parquet"), b"")
    with pytest.raises(UserError, match=r"00000001 \(1\)\.parquet: is not a shard"):
        check(output)


def test_a_shard_of_a_newer_version_is_refused_and_is_no_damage(output: str) -> None:
    score_all(output, planned(output, 3))
    table = pq.read_table(io.BytesIO(storage.read_bytes(shard(output, 0))))
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({"format_version": "99"}), sink)
    storage.write_bytes(shard(output, 0), sink.getvalue())
    with pytest.raises(UserError, match="newer version.*Install the newer version"):
        check(output)


def block(path: Path, kind: str) -> str:
    """Put a folder or a broken link in the place of a file. Return the words that name it."""
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "folder":
        path.mkdir()
        return f"{path.name}: is a folder, not a file. Move it away"
    path.symlink_to("/no/such/file")
    return f"{path.name}: is a broken link to /no/such/file, not a file. Move it away"


def continue_run(output: str) -> None:
    """Check the record, plan six images if there is no plan, and score them."""
    check(output)
    score_all(output, planned(output, 6))


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_a_folder_or_a_broken_link_in_the_place_of_a_shard_is_named(
    tmp_path: Path, kind: str
) -> None:
    planned(str(tmp_path), 6)
    wrong = block(tmp_path / "scored" / RUN / "00000001.parquet", kind)
    with pytest.raises(UserError, match=wrong):
        continue_run(str(tmp_path))


@pytest.mark.parametrize("kind", ["folder", "link"])
@pytest.mark.parametrize("place", ["plans/000001.json", f"runs/{RUN}/manifest-000001.json"])
def test_a_folder_or_a_broken_link_in_the_place_of_another_file_is_named(
    tmp_path: Path, kind: str, place: str
) -> None:
    wrong = block(tmp_path / place, kind)
    with pytest.raises(UserError, match=wrong):
        continue_run(str(tmp_path))
