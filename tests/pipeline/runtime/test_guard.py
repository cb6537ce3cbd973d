"""An image that raises an exception or kills its process gets a row; the others of its batch go on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pyarrow as pa
import pytest
import torch

from pipeline.errors import ObjectDenied, UserError
from pipeline.runtime.attempts import AttemptLog
from pipeline.runtime.guard import _NO_MEMORY, Failure, attempt


class Died(BaseException):
    """Stands for the death of the process: no code after it runs."""


class Speechless(Exception):
    """An exception whose text cannot be made."""

    def __str__(self) -> str:
        raise ValueError("no text")


class SpeechlessOfTorch(Speechless, RuntimeError):
    """The same, of the kind whose text is looked at."""


def rows(*uris: str) -> pa.Table:
    return pa.table({"image_uri": list(uris), "outcome": [""] * len(uris)})


def outcome(batch: pa.Table, text: str) -> pa.Table:
    return batch.set_column(1, "outcome", pa.array([text] * batch.num_rows))


def failed(batch: pa.Table, failure: Failure) -> pa.Table:
    return outcome(batch, f"{failure.status}: {failure.cause}")


def run_until_done(batch: pa.Table, poison: str, log: AttemptLog) -> tuple[dict[str, str], int]:
    """Repeat the batch after each death, as Ray Data does. Returns the outcomes and the number of deaths."""

    def work(part: pa.Table) -> pa.Table:
        if poison in part["image_uri"].to_pylist():
            raise Died
        return outcome(part, "ok")

    for deaths in range(10):
        try:
            done = attempt(batch, work, failed, stage="test", attempts=log)
        except Died:
            continue
        return dict(zip(*done.to_pydict().values(), strict=True)), deaths
    raise AssertionError("never done")


def test_only_the_image_that_kills_three_times_fails() -> None:
    done, deaths = run_until_done(rows("a", "b", "c"), "b", AttemptLog())
    assert deaths == 3
    assert (done["a"], done["c"]) == ("ok", "ok")
    assert done["b"] == "failed: its process died each of 3 times at stage 'test'"


def test_after_a_death_the_careful_function_is_called() -> None:
    """A batch that kills its process may work image by image in another process: no image is lost."""
    log = AttemptLog()

    def killed(part: pa.Table) -> pa.Table:
        raise Died

    def careful(part: pa.Table) -> pa.Table:
        return outcome(part, "fenced")

    def try_it() -> pa.Table:
        batch = rows("a", "b")
        return attempt(batch, killed, failed, stage="test", attempts=log, alone=careful)

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
        attempt(rows("a", "b"), killed, failed, stage="test", attempts=log)
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
        attempt(rows("a", "b"), work, failed, stage="test", attempts=log)
    assert together == [2, 2, 2]


class DyingProcesses(AttemptLog):
    """Counts as `SharedAttempts` does, for processes that die before they can send what they finished."""

    def end_with_next(self, key: str) -> None:
        pass


def test_no_image_fails_if_each_process_dies_after_the_end_of_its_batch() -> None:
    """The batch is repeated each time: together at first, and with more care then."""
    log = DyingProcesses()
    sizes: list[int] = []

    def work(part: pa.Table) -> pa.Table:
        sizes.append(part.num_rows)
        return outcome(part, "ok")

    for _ in range(5):
        done = attempt(rows("a", "b"), work, failed, stage="test", attempts=log, next_follows=True)
        assert done["outcome"].to_pylist() == ["ok", "ok"]
    assert sizes == [2] + [1, 1] * 4


def test_stages_are_counted_separately() -> None:
    log = AttemptLog()
    log.begin("read 1 a")
    _, deaths = run_until_done(rows("a"), "x", log)
    assert deaths == 0
    assert log.begin("read 1 a") == 1


def raising(error: BaseException, poison: str = "b") -> Callable[[pa.Table], pa.Table]:
    """Work that raises for every batch that holds `poison`."""

    def work(part: pa.Table) -> pa.Table:
        if poison in part["image_uri"].to_pylist():
            raise error
        return outcome(part, "ok")

    return work


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (LookupError("no such\nthing"), "failed: LookupError: no such thing"),
        (RecursionError(), "failed: RecursionError"),
        (MemoryError("12 GB"), "failed: MemoryError: 12 GB"),
        (StopIteration(3), "failed: StopIteration: 3"),
        (ObjectDenied("s3://b/x: no"), "denied: s3://b/x: no"),
        (
            UserError("table", "is damaged", "Make it anew."),
            "failed: table: is damaged. Make it anew.",
        ),
        (OSError("name \udcff"), "failed: OSError: name \\udcff"),
        (asyncio.CancelledError("late"), "failed: CancelledError: late"),
        (GeneratorExit(), "failed: GeneratorExit"),
        (Speechless(), "failed: Speechless: <exception str() failed>"),
        (SpeechlessOfTorch(), "failed: SpeechlessOfTorch: <exception str() failed>"),
    ],
)
def test_an_exception_is_the_row_of_its_image_alone(error: BaseException, cause: str) -> None:
    log = AttemptLog()
    done = attempt(rows("a", "b", "c"), raising(error), failed, stage="test", attempts=log)
    assert dict(zip(*done.to_pydict().values(), strict=True)) == {"a": "ok", "b": cause, "c": "ok"}
    assert log.begin("test 3 a") == 0  # the batch counts as finished: no process died with it


def test_a_failure_carries_the_traceback_of_a_bug_and_of_nothing_else() -> None:
    failures: list[Failure] = []

    def keep(row: pa.Table, failure: Failure) -> pa.Table:
        failures.append(failure)
        return row

    for error in (ZeroDivisionError("on purpose"), ObjectDenied("no")):
        attempt(rows("b"), raising(error), keep, stage="test", attempts=AttemptLog())
    bug, denied = failures
    assert bug.traceback is not None
    assert "in work" in bug.traceback
    assert bug.traceback.endswith("ZeroDivisionError: on purpose\n")
    assert denied.traceback is None


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_the_end_of_the_process_is_no_fault_of_an_image(error: BaseException) -> None:
    with pytest.raises(type(error)):
        attempt(rows("a", "b"), raising(error), failed, stage="test", attempts=AttemptLog())


def test_what_goes_wrong_in_a_batch_only_is_well_in_the_end() -> None:
    """For example when a batch needs more memory than there is."""

    def work(part: pa.Table) -> pa.Table:
        if part.num_rows > 1:
            raise MemoryError
        return outcome(part, "ok")

    done = attempt(rows("a", "b"), work, failed, stage="test", attempts=AttemptLog())
    assert done["outcome"].to_pylist() == ["ok", "ok"]


@pytest.mark.parametrize(
    ("error", "ends"),
    [
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: no memory"), True),
        (RuntimeError("CUDA error: device-side assert triggered"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), True),
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), False),
        (RuntimeError("shapes do not match"), False),
        (ValueError("CUDA error: not an error of torch"), False),
    ],
)
def test_a_worker_that_can_do_no_more_work_ends(error: Exception, ends: bool) -> None:
    class Worker(AttemptLog):
        def cannot_continue(self, error: Exception) -> None:
            raise Died

    def go() -> pa.Table:
        return attempt(rows("b"), raising(error), failed, stage="test", attempts=Worker())

    if ends:
        with pytest.raises(Died):
            go()
    else:
        assert go()["outcome"].to_pylist()[0].startswith("failed: ")


def test_a_broken_cuda_context_is_raised_in_the_process_of_the_caller() -> None:
    error = RuntimeError("CUDA error: an illegal memory access was encountered")
    with pytest.raises(RuntimeError, match="illegal memory access"):
        attempt(rows("a", "b"), raising(error), failed, stage="test", attempts=AttemptLog())


def test_the_error_of_torch_without_memory_holds_the_expected_text() -> None:
    with pytest.raises(RuntimeError, match=_NO_MEMORY):
        torch.empty(2**60, dtype=torch.uint8)
