from __future__ import annotations

import threading

import pytest

from pipeline.prefetch import prefetch


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


def test_a_failed_load_is_raised_at_its_own_step() -> None:
    def load(step: int) -> int:
        if step == 2:
            raise OSError("gone")
        return step

    items = prefetch(load, range(5))
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(OSError, match="gone"):
        next(items)
