"""Runs calls in threads: the next results are made while the present one is used, or many at once."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
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


class _StoppedError(Exception):
    """The caller of `merged` wants no more items."""


@dataclass(frozen=True)
class _End:
    """The end of a thread's work."""

    error: BaseException | None


def merged(
    work: Callable[[Callable[[Item], None]], None],
    *,
    threads: int,
    waiting: int,
    stop: Callable[[], None] = lambda: None,
) -> Generator[Item, None, None]:
    """Yield the items of several threads, in any order.

    Args:
        work: is called once in each thread. It calls its argument with each item, which waits while too many
            items wait. Its exception is raised here.
        threads: number of threads.
        waiting: items that wait in memory at most.
        stop: called at the end, also if the caller stops early; it wakes threads that wait for other things.
    """
    items: queue.Queue[Item | _End] = queue.Queue(waiting)
    stopped = threading.Event()

    def put(item: Item | _End) -> None:
        while not stopped.is_set():
            try:
                return items.put(item, timeout=0.5)
            except queue.Full:  # the caller is slower than the threads, so they wait
                continue
        raise _StoppedError

    def run() -> None:
        error: BaseException | None = None
        try:
            work(put)
        except BaseException as raised:  # noqa: B036 - is raised in the caller's thread
            error = raised
        with suppress(_StoppedError):
            put(_End(error))

    for _ in range(threads):
        threading.Thread(target=run, daemon=True).start()
    try:
        ended = 0
        while ended < threads:
            item = items.get()
            if not isinstance(item, _End):
                yield item
            elif item.error is not None:
                raise item.error
            else:
                ended += 1
    finally:
        stopped.set()
        stop()
