"""Lists all objects of a bucket with many requests at once, in any order and in bounded memory.

A store returns a thousand keys in one response, in the order of their bytes, from any given key on. Listed
one after the other, ten million keys take ten thousand responses. Where the keys lie is unknown, so the work
divides itself: when a lister (a thread) has nothing to do, the remaining range of another lister is cut in
two at the key in the middle. If one half is empty, that costs one response, and the next cut is closer to the
keys. After about twenty responses the cuts lie among the keys, whether these are in one folder or in a
million.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from pipeline.runtime.prefetch import merged
from pipeline.storage.uris import ObjectInfo

LISTERS = 16
"""Requests at the same time. S3 answers 5,500 a second and prefix; parsing in this process is the limit."""
_PAGES_WAITING = 64

Page = tuple[list[tuple[str, ObjectInfo]], bool]
"""Keys with their objects, in the order of the keys; and whether more keys follow."""
ListPage = Callable[[str], Page]
"""Lists the page of keys after the given key, without that key."""


@dataclass
class _Work:
    """The work that is left, shared by the listers."""

    ranges: list[tuple[str, str | None]]
    """Ranges (after, until] that no lister has taken; until None means to the end."""
    listing: int = 0
    """Listers that list a range."""
    idle: int = 0
    """Listers that wait for a range."""
    stopped: bool = False
    changed: threading.Condition = field(default_factory=threading.Condition)
    """Guards the fields above, and wakes waiting listers."""


def iter_pages(
    list_page: ListPage, start: str, listers: int = LISTERS
) -> Iterator[list[ObjectInfo]]:
    """Yield every object after `start` once, page by page, in any order.

    Args:
        list_page: lists one page; several threads call it at once. Its exceptions are raised here.
        start: a key before all wanted keys.
        listers: number of threads; 1 lists in order.
    """
    work = _Work(ranges=[(start, None)])

    def lister(put: Callable[[list[ObjectInfo]], None]) -> None:
        while (range_ := _take_range(work)) is not None:
            _list_range(list_page, range_, work, put)

    def stop() -> None:
        with work.changed:
            work.stopped = True
            work.changed.notify_all()

    yield from merged(lister, threads=listers, waiting=_PAGES_WAITING, stop=stop)


def _take_range(work: _Work) -> tuple[str, str | None] | None:
    """Wait for a range to list, and take it; None when everything is listed."""
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
    range_: tuple[str, str | None],
    work: _Work,
    put: Callable[[list[ObjectInfo]], None],
) -> None:
    """List one range page by page; leave a part of it to idle listers after each page."""
    after, until = range_
    more = True
    while more and not work.stopped:
        page, more = list_page(after)
        wanted = [info for key, info in page if until is None or key <= until]
        more = more and len(wanted) == len(page)
        if wanted:
            put(wanted)
        if more:
            after = page[-1][0]
            until = _share_range(work, after, until)
    with work.changed:
        work.listing -= 1
        work.changed.notify_all()


def _share_range(work: _Work, after: str, until: str | None) -> str | None:
    """If a lister is idle, leave the second half of (after, until] to it; return the new end of the range."""
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
    """Return a key about half way between two keys, in the order of their bytes.

    None if no key fits between them. Most keys are ASCII, so the first cut separates the range above ASCII.
    Python compares strings by code point, which is the order of their UTF-8 bytes.
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
        # The first different characters are neighbours: halve the range that follows the lower one.
        rest = ord(after[start + 1]) if start + 1 < len(after) else 0x20
        cut = after[: start + 1] + _letter((rest + 0x7F) // 2 + 1)
    return cut if after < cut and (until is None or cut < until) else None


def _letter(code: int) -> str:
    """Return the character with this code; for a surrogate, which is no character, the nearest below."""
    return chr(code if not 0xD800 <= code <= 0xDFFF else 0xD7FF)
