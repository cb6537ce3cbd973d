"""Work in threads: the next items are made while this one is used."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

REQUESTS_AT_ONCE = 16
"""Requests that one process has at a store at once. Each waits tens of milliseconds for the network."""


def prefetch(
    call: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    threads: int = 2,
    waiting: int | None = None,
) -> Generator[Result, None, None]:
    """Yield call(item) for each item in order; threads make the next results meanwhile.

    Threads, not processes: reading waits on the network and decoding releases the interpreter's lock. The
    items are taken by the thread that takes the results. Where that thread stops early, no new call begins.

    Args:
        call: may run in several threads at once; what it raises is raised at the place of its result.
        items: may be made as they are taken.
        threads: calls at once.
        waiting: results that are made or being made ahead of the one that is taken; None means twice
            `threads`. They stay in memory.
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
    """call(item) of each item, in order; so many calls at once."""
    return list(prefetch(call, items, threads=threads))
