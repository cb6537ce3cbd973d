"""A cache whose values are made once, also if many threads ask for one at the same time."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Shared(Generic[Key, Value]):
    """Keeps the values that were used last.

    `functools.lru_cache` calls its function once for each thread that asks before the first value is ready.

    Args:
        most: sum of the weights of the values that are kept. The newest value is kept at any weight.
        weigh: returns the weight of a value, at least 1. Without it, each value weighs 1.
    """

    def __init__(self, most: int, weigh: Callable[[Value], int] = lambda value: 1) -> None:
        self._most, self._weigh = most, weigh
        self._lock = threading.Lock()
        self._values: OrderedDict[Key, Future[Value]] = OrderedDict()

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        """Return the value of a key. The first caller makes it, and the others wait for it.

        Its exception is raised for each of them and is not kept: the next caller makes the value again.
        """
        with self._lock:
            future = self._values.get(key)
            is_first = future is None
            if future is None:
                future = self._values[key] = Future()
            self._values.move_to_end(key)
        if is_first:
            try:
                future.set_result(make())
            except BaseException as error:  # noqa: B036 - is raised for each caller
                with self._lock:
                    self._values.pop(key, None)
                future.set_exception(error)
            self._remove_old()
        return future.result()

    def peek(self, key: Key) -> Value | None:
        """Return the value of a key if it is ready. Nothing is made, and the value gets no younger by it."""
        with self._lock:
            future = self._values.get(key)
        ready = future is not None and future.done() and future.exception() is None
        return future.result() if ready and future is not None else None

    def _remove_old(self) -> None:
        with self._lock:
            done = [key for key, future in self._values.items() if future.done()]
            total = 0
            for key in reversed(done):
                total += max(1, self._weigh(self._values[key].result()))
                if total > self._most and key != done[-1]:
                    del self._values[key]
