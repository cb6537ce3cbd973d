"""Rows whose cause may not be the image's wait, and stop the job if there are too many of them."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pyarrow as pa
import pytest

from pipeline.errors import JobError
from pipeline.schema import RESULT
from pipeline.scoring.gate import Gate
from tests.pipeline.record_cases import result


def rows(
    *statuses: str,
    shard: int = 0,
    node: str = "n1",
    error: str = "why",
    traceback: str | None = None,
) -> pa.Table:
    images = [
        {"image_uri": f"s3://b/{shard}-{n}", "etag": "e", "size_bytes": 10, "shard": shard}
        for n in range(len(statuses))
    ]
    made = result(pa.Table.from_pylist(images)).to_pylist()
    extra = {"error": error, "node": node, "traceback": traceback}
    return pa.Table.from_pylist(
        [row | extra | {"status": status} for row, status in zip(made, statuses, strict=True)],
        schema=RESULT,
    )


def statuses(table: pa.Table) -> list[str]:
    return list(table["status"].to_pylist())


def passed(gate: Gate, blocks: Sequence[pa.Table]) -> list[str]:
    """Send blocks through a gate to the end of the job."""
    tables = [gate.sift(block) for block in blocks]
    return statuses(pa.concat_tables([*tables, gate.close()]))


def test_what_an_image_is_passes_at_once() -> None:
    gate = Gate(max_unreachable=0.2)
    block = rows("ok", "undecodable", "too_large")
    assert gate.sift(block).equals(block)
    assert gate.close().num_rows == 0


def test_a_row_of_another_kind_waits_for_the_next_200() -> None:
    gate = Gate(max_unreachable=0.2)
    assert statuses(gate.sift(rows("ok", "denied", "ok"))) == ["ok", "ok"]
    assert "denied" not in statuses(gate.sift(rows(*["ok"] * 199)))
    assert statuses(gate.sift(rows("ok"))) == ["ok", "denied"]


def test_at_the_end_of_the_job_the_waiting_rows_pass() -> None:
    """Five truly denied images of 60 are rows."""
    block = rows(*["denied"] * 5, *["ok"] * 55)
    assert sorted(passed(Gate(max_unreachable=0.2), [block])) == ["denied"] * 5 + ["ok"] * 55


@pytest.mark.parametrize("status", ["denied", "unreadable", "missing", "changed"])
@pytest.mark.parametrize("number", [3, 12, 60, 150, 300])
def test_if_the_store_gives_no_image_no_row_passes(status: str, number: int) -> None:
    gate, got = Gate(max_unreachable=0.2), []

    def go() -> None:
        for _ in range(0, number, 3):
            got.append(gate.sift(rows(*[status] * 3)).num_rows)
        gate.close()

    with pytest.raises(JobError, match=rf"the store gave only 0 of .*\({status}: why\)"):
        go()
    assert sum(got) == 0


def test_a_burst_of_unread_images_stops_the_job_before_they_pass() -> None:
    gate = Gate(max_unreachable=0.2)
    assert gate.sift(rows(*["ok"] * 150)).num_rows == 150
    assert gate.sift(rows(*["ok", "unreadable"] * 20)).num_rows == 20
    with pytest.raises(JobError, match="159 of the last 200"):
        gate.sift(rows(*["unreadable"] * 40, *["ok"] * 100))


@pytest.mark.parametrize(("status", "number"), [("missing", 60), ("failed", 110)])
def test_a_burst_before_the_200th_row_stops_the_job_too(status: str, number: int) -> None:
    gate = Gate(max_unreachable=0.2)
    gate.sift(rows("ok"))
    gate.sift(rows(*[status] * number))
    gate.sift(rows(*["ok"] * (198 - number)))
    with pytest.raises(JobError, match=r"of the last 200 images.*why"):
        gate.sift(rows("ok"))


def test_a_few_unread_images_of_a_small_job_are_rows() -> None:
    """Nine of 18 are too few to tell; ten of 18 are not."""
    half = ["missing"] * 9 + ["ok"] * 9
    assert len(passed(Gate(max_unreachable=0.2), [rows(*half)])) == 18
    with pytest.raises(JobError, match="8 of the last 18"):
        passed(Gate(max_unreachable=0.2), [rows(*["missing"] * 10, *["ok"] * 8)])


def test_where_the_run_has_images_a_few_new_ones_may_all_be_missing() -> None:
    """A file that is deleted after the listing must not stop the job each night."""
    assert passed(Gate(max_unreachable=0.2, proven=True), [rows("missing")]) == ["missing"]
    with pytest.raises(JobError):
        passed(Gate(max_unreachable=0.2), [rows("missing")])


def test_max_unreachable_1_never_stops_and_never_waits() -> None:
    block = rows(*["denied"] * 400)
    assert Gate(max_unreachable=1).sift(block).num_rows == 400


def test_the_message_names_the_node_that_failed_most() -> None:
    gate = Gate(max_unreachable=0.2)
    gate.sift(rows(*["ok"] * 100, "denied", node="good"))
    gate.sift(rows(*["ok"] * 5, *["denied"] * 30, node="bad"))
    gate.sift(rows(*["ok"] * 60, node="good"))
    with pytest.raises(JobError, match=r"node bad: 41 of its 46 images \(other nodes: 1 of 161\)"):
        gate.sift(rows(*["denied"] * 11, node="bad"))


def test_images_that_could_not_be_read_before_may_fail_again_if_the_store_works() -> None:
    asked: list[int] = []

    def works() -> bool:
        asked.append(1)
        return True

    gate = Gate(max_unreachable=0.2, proven=True, retried=[7], store_works=works)
    again = [rows(*["denied"] * 100, shard=7) for _ in range(3)]
    assert passed(gate, again) == ["denied"] * 300
    assert len(asked) == 2  # after 200 rows, and for the rest at the end


def test_if_the_store_does_not_work_a_retry_is_not_used_up() -> None:
    gate = Gate(max_unreachable=0.2, proven=True, retried=[7], store_works=lambda: False)
    with pytest.raises(JobError, match="0 of the last 15"):
        passed(gate, [rows(*["denied"] * 15, shard=7)])


def test_a_few_images_that_fail_again_need_no_question() -> None:
    gate = Gate(max_unreachable=0.2, proven=True, retried=[7], store_works=lambda: False)
    assert passed(gate, [rows(*["denied"] * 5, shard=7)]) == ["denied"] * 5


def test_new_images_that_cannot_be_read_stop_the_job_beside_a_retry() -> None:
    gate = Gate(max_unreachable=0.2, proven=True, retried=[7], store_works=lambda: True)
    gate.sift(rows(*["denied"] * 100, shard=7))
    with pytest.raises(JobError):
        gate.sift(rows(*["denied"] * 100, shard=8))


def test_if_all_of_the_first_50_images_fail_the_job_stops_with_the_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gate = Gate(max_unreachable=0.2)
    block = rows(*["failed"] * 7, traceback="Traceback\n  in detect\nValueError: bug")
    assert [gate.sift(block).num_rows for _ in range(7)] == [0] * 7
    with caplog.at_level(logging.ERROR), pytest.raises(JobError, match="50 of the first 50 images"):
        gate.sift(block)
    assert "in detect\nValueError: bug" in caplog.text


def test_if_all_of_fewer_images_fail_the_job_stops_at_its_end() -> None:
    with pytest.raises(JobError, match="4 of 4 images failed"):
        passed(Gate(max_unreachable=0.2), [rows(*["failed"] * 4)])


@pytest.mark.parametrize("others", [1, 30])
def test_if_some_image_is_well_the_failed_ones_are_rows(others: int) -> None:
    block = rows(*["failed"] * 24, *["ok"] * others)
    assert passed(Gate(max_unreachable=0.2), [block]).count("failed") == 24


def test_where_the_run_has_images_one_new_image_may_fail() -> None:
    assert passed(Gate(max_unreachable=0.2, proven=True), [rows("failed")]) == ["failed"]


def test_if_more_than_half_of_the_last_200_fail_the_job_stops() -> None:
    gate = Gate(max_unreachable=1)
    gate.sift(rows(*["ok"] * 500))
    gate.sift(rows(*["failed"] * 100))
    with pytest.raises(JobError, match=r"101 of the last 200 images failed.*s3://b/0-0: why"):
        gate.sift(rows("failed"))


def test_old_versions_of_images_that_are_planned_again_may_all_be_changed() -> None:
    gate = Gate(max_unreachable=0.2, replaced=lambda rows: [True] * rows.num_rows)
    assert passed(gate, [rows(*["changed"] * 250)]) == ["changed"] * 250
    with pytest.raises(JobError, match=r"the store gave only .* \(denied: why\)"):
        passed(gate, [rows(*["denied"] * 250)])
