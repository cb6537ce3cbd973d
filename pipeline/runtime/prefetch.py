"""Runs calls in threads: the next results are made while the present one is used."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

REQUESTS_AT_ONCE = 16
"""Requests that one process sends to a store at the same time. Each waits tens of ms for the network."""


def prefetch(
    call: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    threads: int = 2,
    waiting: int | None = None,
) -> Generator[Result, None, None]:
    """Yield call(item) for each item, in order. Threads make the next results meanwhile.

    Threads are enough, because reading waits for the network and decoding releases the interpreter's lock.
    The items are iterated in the caller's thread. If the caller stops early, no further call begins.

    Args:
        call: may run in several threads at once. Its exception is raised where its result would be yielded.
        items: may be a generator.
        threads: calls at the same time.
        waiting: results that are made ahead and kept in memory; None means twice `threads`.
    """
    most = 2 * threads if waiting is None else waiting
    with ThreadPoolExecutor(threads, thread_name_prefix="prefetch") as pool:
        ahead: deque[Future[Result]] = deque()
        try:
            for item in items:
                ahead.append(pool.submit(call, item))
                if len(ahead) > most:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


def in_threads(
    call: Callable[[Item], Result], items: Iterable[Item], *, threads: int = REQUESTS_AT_ONCE
) -> list[Result]:
    """Return call(item) for each item, in order, with `threads` calls at the same time."""
    return list(prefetch(call, items, threads=threads))
