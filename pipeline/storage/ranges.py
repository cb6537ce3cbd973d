"""All objects of a bucket listed from many places at once, in whatever order, in bounded memory.

A store gives a thousand keys an answer, in order of their bytes, from wherever it is asked; one after the
other, ten million keys are ten thousand answers. Nothing is known of how the keys lie, so the work divides
itself: whenever a lister has nothing to do, another's remaining range is cut in two at the key in the
middle. A half that turns out empty costs one answer, and the next cut is nearer: after some twenty answers
the cuts lie among the keys, whether they stand in one folder or in a million.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from pipeline.storage.uris import ObjectInfo

LISTERS = 16
"""Requests under way; S3 answers 5,500 a second and prefix, the parsing here is what bounds them."""
_PAGES_WAITING = 64

Page = tuple[list[tuple[str, ObjectInfo]], bool]
"""Keys with their objects, by key; whether there are more."""
ListPage = Callable[[str], Page]
"""The page of keys behind this one (exclusive)."""


@dataclass
class _Work:
    """What is still to be listed: ranges (after, until], until None for the end."""

    ranges: list[tuple[str, str | None]]
    listing: int = 0
    idle: int = 0
    stopped: bool = False
    changed: threading.Condition = field(default_factory=threading.Condition)


def iter_pages(
    list_page: ListPage, start: str, listers: int = LISTERS
) -> Iterator[list[ObjectInfo]]:
    """Every object that `list_page` lists behind `start`, each once, page by page, in no order.

    Args:
        list_page: answers from several threads at once; its errors rise here.
        start: a key below all those wanted.
        listers: threads; 1 lists in order.
    """
    work = _Work(ranges=[(start, None)])
    pages: queue.Queue[list[ObjectInfo] | BaseException | None] = queue.Queue(_PAGES_WAITING)

    def put(item: list[ObjectInfo] | BaseException | None) -> None:
        while not work.stopped:
            try:
                pages.put(item, timeout=0.5)
                return
            except queue.Full:  # whoever reads us is slower: no more is asked for
                pass

    def lister() -> None:
        try:
            while (taken := _take(work)) is not None:
                _list_range(list_page, taken, work, put)
        except BaseException as error:  # noqa: B036 - rises in the reader's thread
            put(error)
        finally:
            put(None)

    threads = [threading.Thread(target=lister, daemon=True) for _ in range(listers)]
    for thread in threads:
        thread.start()
    try:
        ended = 0
        while ended < listers:
            item = pages.get()
            if item is None:
                ended += 1
            elif isinstance(item, BaseException):
                raise item
            elif item:
                yield item
    finally:
        with work.changed:
            work.stopped = True
            work.changed.notify_all()


def _take(work: _Work) -> tuple[str, str | None] | None:
    """A range to list; None when all are done."""
    with work.changed:
        work.idle += 1
        while not work.ranges and work.listing and not work.stopped:
            work.changed.wait()
        work.idle -= 1
        if work.stopped or not work.ranges:
            work.changed.notify_all()
            return None
        work.listing += 1
        return work.ranges.pop()


def _list_range(
    list_page: ListPage,
    taken: tuple[str, str | None],
    work: _Work,
    put: Callable[[list[ObjectInfo]], None],
) -> None:
    after, until = taken
    more = True
    while more and not work.stopped:
        page, more = list_page(after)
        wanted = [info for key, info in page if until is None or key <= until]
        more = more and len(wanted) == len(page)
        put(wanted)
        if more:
            after = page[-1][0]
            until = _share(work, after, until)
    with work.changed:
        work.listing -= 1
        work.changed.notify_all()


def _share(work: _Work, after: str, until: str | None) -> str | None:
    """Where somebody is idle, leave the second half of (after, until] to them; the new end of ours."""
    with work.changed:
        if work.idle <= len(work.ranges):
            return until
        cut = middle(after, until)
        if cut is None:
            return until
        work.ranges.append((cut, until))
        work.changed.notify_all()
        return cut


def middle(after: str, until: str | None) -> str | None:
    """A key about half way between two, in the order of their bytes; None where there is no room.

    Most keys are ASCII, so what lies above it is cut off first. Strings in Python compare by code point,
    which is the order of their UTF-8.
    """
    start = 0
    ceiling = until if until is not None else ""
    while start < len(ceiling) and ceiling[start : start + 1] == after[start : start + 1]:
        start += 1
    shared = after[:start]
    if until is None and (after[:1] or " ") < "\x7f":
        return "\x7f"
    low = ord(after[start]) if start < len(after) else 0x20
    high = ord(until[start]) if until is not None and start < len(until) else 0x10FFFF
    cut = shared + _letter((low + high) // 2)
    if not after < cut:
        # Neighbours: half of what follows the lower one.
        rest = ord(after[start + 1]) if start + 1 < len(after) else 0x20
        cut = after[: start + 1] + _letter((rest + 0x7F) // 2 + 1)
    return cut if after < cut and (until is None or cut < until) else None


def _letter(code: int) -> str:
    """A character of about this code: surrogates are none."""
    return chr(code if not 0xD800 <= code <= 0xDFFF else 0xD7FF)
