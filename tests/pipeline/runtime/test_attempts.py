"""After a batch killed its process, its images are tried alone; an image that kills again is given up."""

from __future__ import annotations

import pyarrow as pa
import pytest
import torch

from pipeline.runtime.attempts import _NO_MEMORY, AttemptLog, attempt


class Died(BaseException):
    """Stands for the death of the process: no code after it runs."""


def rows(*uris: str) -> pa.Table:
    return pa.table({"image_uri": list(uris), "outcome": [""] * len(uris)})


def outcome(batch: pa.Table, text: str) -> pa.Table:
    return batch.set_column(1, "outcome", pa.array([text] * batch.num_rows))


def run_until_done(batch: pa.Table, poison: str, log: AttemptLog) -> tuple[dict[str, str], int]:
    """Repeat the batch after each death, as Ray Data does. Returns the outcomes and the number of deaths."""

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


def test_only_the_image_that_kills_three_times_fails() -> None:
    done, deaths = run_until_done(rows("a", "b", "c"), "b", AttemptLog())
    assert deaths == 3
    assert (done["a"], done["c"]) == ("ok", "ok")
    assert done["b"] == "its process died each of 3 times at stage 'test'"


def test_after_a_death_the_careful_function_is_called() -> None:
    """A batch that kills its process may work image by image in another process: no image is lost."""
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


def test_no_image_fails_if_the_process_was_killed_from_outside() -> None:
    log = AttemptLog()

    def killed(part: pa.Table) -> pa.Table:
        raise Died

    with pytest.raises(Died):
        attempt(rows("a", "b"), killed, outcome, stage="test", attempts=log)
    done, _ = run_until_done(rows("a", "b"), "x", log)
    assert done == {"a": "ok", "b": "ok"}


def test_a_finished_batch_can_be_repeated() -> None:
    """Ray Data repeats tasks whose output was lost with a node; this does not count as a death."""
    log = AttemptLog()
    together: list[int] = []

    def work(part: pa.Table) -> pa.Table:
        together.append(part.num_rows)
        return outcome(part, "ok")

    for _ in range(3):
        attempt(rows("a", "b"), work, outcome, stage="test", attempts=log)
    assert together == [2, 2, 2]


def test_stages_are_counted_separately() -> None:
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
def test_a_process_without_memory_is_distinguished_from_a_bug(error: Exception, times: int) -> None:
    """A worker then ends itself; in the caller's process the exception is raised."""

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


def test_the_error_of_torch_without_memory_holds_the_expected_text() -> None:
    with pytest.raises(RuntimeError, match=_NO_MEMORY):
        torch.empty(2**60, dtype=torch.uint8)
