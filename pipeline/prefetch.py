"""The next items are made while this one is used."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")


def prefetch(load: Callable[[int], Item], steps: range, *, threads: int = 2) -> Iterator[Item]:
    """Yield load(step) for each step in order, the next ones being loaded meanwhile.

    Threads, not processes: reading waits on the network and decoding releases the interpreter's lock.
    """
    with ThreadPoolExecutor(threads, thread_name_prefix="prefetch") as pool:
        ahead: deque[Future[Item]] = deque()
        todo = iter(steps)
        try:
            for step in todo:
                ahead.append(pool.submit(load, step))
                if len(ahead) > 2 * threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()
