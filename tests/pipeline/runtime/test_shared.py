"""Values that many threads ask for are made once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.runtime.shared import Shared


def test_many_threads_that_ask_at_once_get_one_value() -> None:
    cache: Shared[str, object] = Shared(4)
    barrier, made = threading.Barrier(16), []

    def make() -> object:
        made.append(None)
        return object()

    def ask(_: int) -> object:
        barrier.wait()
        return cache.get("a", make)

    with ThreadPoolExecutor(16) as threads:
        values = set(threads.map(ask, range(16)))
    assert len(values) == len(made) == 1


def test_the_values_that_were_used_last_are_kept() -> None:
    cache: Shared[str, list[int]] = Shared(5, len)
    made = []

    def get(key: str, size: int) -> None:
        def make() -> list[int]:
            made.append(key)
            return [0] * size

        assert len(cache.get(key, make)) == size

    get("a", 2)
    get("b", 2)
    get("a", 2)
    get("c", 3)  # b was used first
    get("a", 2)
    assert made == ["a", "b", "c"]
    get("large", 99)  # is kept alone
    get("large", 99)
    get("a", 2)
    assert made == ["a", "b", "c", "large", "a"]


def test_an_exception_is_raised_and_not_kept() -> None:
    cache: Shared[str, int] = Shared(4)
    with pytest.raises(ZeroDivisionError):
        cache.get("a", lambda: 1 // 0)
    assert cache.get("a", lambda: 1) == 1
