"""Results come in order; a bounded number of calls runs ahead."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from pipeline.runtime.prefetch import in_threads, prefetch


def test_batches_come_in_order_while_the_next_are_loaded() -> None:
    started = []
    first_may_end = threading.Event()

    def load(step: int) -> int:
        started.append(step)
        if step == 0:
            first_may_end.wait(5)
        elif step == 3:
            first_may_end.set()  # step 3 began before step 0 was done
        return step

    assert list(prefetch(load, range(3, 9))) == [3, 4, 5, 6, 7, 8]
    first_may_end.clear()
    assert list(prefetch(load, range(6))) == list(range(6))
    assert first_may_end.is_set()


def test_the_error_of_a_call_is_raised_at_the_place_of_its_result() -> None:
    def load(step: int) -> int:
        if step == 2:
            raise OSError("gone")
        return step

    items = prefetch(load, range(5))
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(OSError, match="gone"):
        next(items)


def test_few_items_are_taken_ahead_and_none_after_an_early_end() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    results = prefetch(str, items(), threads=2, waiting=3)
    assert [next(results), next(results)] == ["0", "1"]
    assert taken == [0, 1, 2, 3, 4]  # two results, and three that wait
    results.close()
    assert len(taken) == 5


def test_no_call_begins_after_the_reader_has_ended() -> None:
    begun: list[int] = []
    runs, may_end = threading.Event(), threading.Event()

    def call(number: int) -> int:
        begun.append(number)
        if number > 0:
            runs.set()
            may_end.wait(5)
        return number

    results = prefetch(call, range(100), threads=1, waiting=10)
    assert next(results) == 0
    assert runs.wait(5)
    threading.Timer(0.2, may_end.set).start()
    results.close()  # waits for the call that runs
    assert begun == [0, 1]


def test_in_threads_returns_all_results_in_order() -> None:
    together = threading.Barrier(3, timeout=5)

    def call(number: int) -> int:
        together.wait()  # three calls at once, or none
        return -number

    assert in_threads(call, range(9), threads=3) == [-n for n in range(9)]
