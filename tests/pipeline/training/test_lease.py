"""One training an output: leases are taken, renewed, waited for, refused, given back and cleaned up."""

from __future__ import annotations

import json
import logging
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline import storage
from pipeline.errors import JobError, ObjectDenied, UserError
from pipeline.runtime import ending
from pipeline.storage.local import LocalStore
from pipeline.training import lease
from pipeline.training.lease import TrainingLease


def numbers(output: str) -> list[int]:
    return sorted(
        int(info.uri[-11:-5]) for info in storage.list_objects(f"{output}/train", missing_ok=True)
    )


def read(output: str, number: int) -> dict[str, Any]:
    stored: dict[str, Any] = json.loads(
        storage.read_bytes(f"{output}/train/lease-{number:06d}.json")
    )
    return stored


def abandoned(output: str, **times: float) -> TrainingLease:
    """A lease whose process was killed: nobody renews it or gives it back."""
    dead = TrainingLease(output, **times)
    dead._number = dead._wait() + 1
    assert dead._create(dead._number, ended=False)
    return dead


@pytest.fixture(params=["local", "s3"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "run [1]*")  # brackets and stars are no pattern here
    return str(request.getfixturevalue("bucket"))


def test_a_lease_is_renewed_by_the_next_number_and_given_back(output: str) -> None:
    with TrainingLease(output, renew_s=0.1):
        assert numbers(output) == [1]
        assert read(output, 1)["ended"] is False
        while max(numbers(output)) < 6:
            time.sleep(0.05)
    last = max(numbers(output))
    assert read(output, last)["ended"] is True
    assert read(output, last - 1)["holder"] == read(output, last)["holder"]
    assert len(numbers(output)) <= 5, "old numbers were not deleted"


def test_after_a_clean_end_the_next_command_does_not_wait(output: str) -> None:
    with TrainingLease(output):
        pass
    start = time.monotonic()
    with TrainingLease(output):
        assert numbers(output) == [1, 2, 3]
    assert time.monotonic() - start < 10


def test_a_second_command_is_refused_if_the_lease_is_renewed_meanwhile(output: str) -> None:
    with TrainingLease(output, renew_s=0.3):
        with pytest.raises(JobError, match=r"process \d+ on .* trains into "):
            TrainingLease(output, expires_s=60).__enter__()
    with TrainingLease(output):
        pass  # it was not the end of the first


def test_a_lease_that_nobody_renews_is_taken_when_it_has_expired(
    output: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    abandoned(output)
    start = time.monotonic()
    with TrainingLease(output, expires_s=2.5):
        assert numbers(output) == [1, 2]
    # S3 gives times in whole seconds
    assert 1 < time.monotonic() - start < 20
    assert "may train into" in caplog.text


@pytest.mark.parametrize("data", [b"", b'{"holder": "4f', b"{}", b"[]", b"\xff"])
def test_a_damaged_lease_is_taken_when_it_has_expired(tmp_path: Path, data: bytes) -> None:
    storage.write_bytes(f"{tmp_path}/train/lease-000001.json", data)
    start = time.monotonic()
    with TrainingLease(str(tmp_path), expires_s=0.5):
        assert numbers(str(tmp_path))[-1] == 2
    assert time.monotonic() - start > 0.4


def test_an_old_lease_is_taken_at_once(output: str) -> None:
    abandoned(output)
    time.sleep(2.2)
    start = time.monotonic()
    with TrainingLease(output, expires_s=1.0):
        pass
    assert time.monotonic() - start < 1.5


def test_the_age_is_that_of_the_file_system_not_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This machine's clock is a year ahead. A lease of this moment must not look old."""
    output = str(tmp_path)
    abandoned(output)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 365 * 86400)
    age_s = storage.age_s(f"{output}/train/lease-000001.json")
    assert age_s is not None
    assert 0 <= age_s < 10


def test_the_second_waits_until_the_first_ends(output: str) -> None:
    with TrainingLease(output) as first:
        second = TrainingLease(output, expires_s=60)
        waiting = threading.Thread(target=second.__enter__)
        waiting.start()
        time.sleep(0.5)
        assert numbers(output) == [1], "it went on while the first held the lease"
        first._end()
        waiting.join(20)
        assert not waiting.is_alive()
        assert read(output, 3)["holder"] == second._id
        second.__exit__(None, None, None)


def test_of_two_that_wait_for_a_dead_one_only_one_goes_on(tmp_path: Path) -> None:
    output = str(tmp_path)
    abandoned(output)
    outcomes: list[str] = []

    def run() -> None:
        try:
            with TrainingLease(output, renew_s=0.2, expires_s=1.5):
                outcomes.append("trains")
                time.sleep(3)
        except JobError:
            outcomes.append("refused")

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["refused", "trains"]


def test_a_holder_that_was_stopped_too_long_ends_when_its_number_is_taken(
    tmp_path: Path,
) -> None:
    """Process A slept. B took the lease, and has deleted the numbers that A would have noticed."""
    output = str(tmp_path)
    sleeper = TrainingLease(output, renew_s=1000)
    sleeper.__enter__()
    other = TrainingLease(output)
    for number in range(2, 8):
        assert other._create(number, ended=False)
    for number in (1, 2, 3):
        storage.delete(f"{output}/train/lease-{number:06d}.json")
    sleeper._renew()
    with pytest.raises(JobError, match="another command trains into"):
        sleeper.__exit__()
    assert read(output, 7)["ended"] is False, "it ended the lease of the other"


def test_a_job_whose_lease_is_taken_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[tuple[int, str]] = []
    monkeypatch.setattr(ending, "end_job", lambda code, line: ends.append((code, line)))
    holder = TrainingLease(str(tmp_path), renew_s=0.05).__enter__()
    number = 2
    while not TrainingLease(str(tmp_path))._create(number, ended=False):
        number += 1  # the holder was faster
    while not ends:
        time.sleep(0.02)
    with pytest.raises(JobError):
        holder.__exit__()
    ((code, line),) = ends
    assert code == 1
    assert line.startswith("failed: another command trains into")


def test_a_holder_without_the_right_to_delete_keeps_its_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object, **__: object) -> None:
        raise ObjectDenied("no")

    monkeypatch.setattr(LocalStore, "delete", denied)
    with TrainingLease(str(tmp_path), renew_s=0.05):
        while max(numbers(str(tmp_path))) < 8:
            time.sleep(0.05)
    assert numbers(str(tmp_path)) == list(range(1, max(numbers(str(tmp_path))) + 1))


def test_the_times_are_those_of_the_contract() -> None:
    assert (lease.RENEW_S, lease.EXPIRES_S) == (20, 60)


@pytest.mark.parametrize("kind", ["folder", "link"])
@pytest.mark.parametrize("number", [1, 2])
def test_a_folder_or_a_broken_link_in_the_place_of_a_lease_is_named(
    tmp_path: Path, kind: str, number: int
) -> None:
    if number == 2:
        with TrainingLease(str(tmp_path)):
            pass
        (tmp_path / "train" / "lease-000002.json").unlink()
    else:
        (tmp_path / "train").mkdir()
    path = tmp_path / "train" / f"lease-{number:06d}.json"
    if kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/no/such/file")
    with pytest.raises(UserError, match=f"{path.name}: is a .*, not a file. Move it away"):
        with TrainingLease(str(tmp_path), renew_s=0.1, expires_s=0.2):
            pass
