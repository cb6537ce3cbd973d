"""A batch that killed its process is taken apart, and what kills alone is given up."""

from __future__ import annotations

import pyarrow as pa
import pytest
import torch

from pipeline.runtime.attempts import _NO_MEMORY, AttemptLog, attempt


class Died(BaseException):
    """Stands for the end of the process: nothing after it runs."""


def rows(*uris: str) -> pa.Table:
    return pa.table({"image_uri": list(uris), "outcome": [""] * len(uris)})


def outcome(batch: pa.Table, text: str) -> pa.Table:
    return batch.set_column(1, "outcome", pa.array([text] * batch.num_rows))


def run_until_done(batch: pa.Table, poison: str, log: AttemptLog) -> tuple[dict[str, str], int]:
    """As Ray Data: the same batch again after each death. Returns outcomes and deaths."""

    def work(part: pa.Table) -> pa.Table:
        if poison in part["image_uri"].to_pylist():
            raise Died
        return outcome(part, "ok")

    for deaths in range(10):
        try:
            done = attempt(batch, work, outcome, stage="test", attempts=log)
        except Died:
            continue
        return dict(zip(*done.to_pydict().values(), strict=True)), deaths
    raise AssertionError("never done")


def test_an_image_that_kills_three_times_fails_alone() -> None:
    done, deaths = run_until_done(rows("a", "b", "c"), "b", AttemptLog())
    assert deaths == 3
    assert (done["a"], done["c"]) == ("ok", "ok")
    assert done["b"] == "its process died each of 3 times at stage 'test'"


def test_after_a_death_images_are_taken_with_care() -> None:
    """What kills a process in company lives behind the fence: no image is lost."""
    log = AttemptLog()

    def killed(part: pa.Table) -> pa.Table:
        raise Died

    def careful(part: pa.Table) -> pa.Table:
        return outcome(part, "fenced")

    def try_it() -> pa.Table:
        batch = rows("a", "b")
        return attempt(batch, killed, outcome, stage="test", attempts=log, alone=careful)

    with pytest.raises(Died):
        try_it()
    done = try_it()
    assert done["outcome"].to_pylist() == ["fenced", "fenced"]


def test_a_batch_without_poison_is_done_at_once() -> None:
    done, deaths = run_until_done(rows("a", "b"), "x", AttemptLog())
    assert (done, deaths) == ({"a": "ok", "b": "ok"}, 0)


def test_a_death_from_outside_costs_no_image() -> None:
    log = AttemptLog()

    def killed(part: pa.Table) -> pa.Table:
        raise Died

    with pytest.raises(Died):
        attempt(rows("a", "b"), killed, outcome, stage="test", attempts=log)
    done, _ = run_until_done(rows("a", "b"), "x", log)
    assert done == {"a": "ok", "b": "ok"}


def test_a_batch_done_once_may_be_done_again() -> None:
    """Ray Data redoes tasks whose output was lost with a node: those are no deaths."""
    log = AttemptLog()
    together: list[int] = []

    def work(part: pa.Table) -> pa.Table:
        together.append(part.num_rows)
        return outcome(part, "ok")

    for _ in range(3):
        attempt(rows("a", "b"), work, outcome, stage="test", attempts=log)
    assert together == [2, 2, 2]


def test_stages_are_counted_apart() -> None:
    log = AttemptLog()
    log.begin("read 1 a")
    _, deaths = run_until_done(rows("a"), "x", log)
    assert deaths == 0
    assert log.begin("read 1 a") == 1


@pytest.mark.parametrize(
    ("error", "times"),
    [
        (MemoryError(), 1),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate"),
            1,
        ),
        (RuntimeError("shapes do not match"), 0),
    ],
)
def test_a_process_without_memory_is_told_from_a_bug(error: Exception, times: int) -> None:
    """A worker ends itself then; in the caller's own process the exception says it."""

    class Log(AttemptLog):
        told = 0

        def out_of_memory(self, error: Exception) -> None:
            self.told += 1

    def work(part: pa.Table) -> pa.Table:
        raise error

    log = Log()
    with pytest.raises(type(error)):
        attempt(rows("a"), work, outcome, stage="test", attempts=log)
    assert log.told == times


def test_torch_says_of_a_cpu_without_memory_what_is_looked_for() -> None:
    with pytest.raises(RuntimeError, match=_NO_MEMORY):
        torch.empty(2**60, dtype=torch.uint8)
