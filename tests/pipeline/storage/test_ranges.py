"""Listing a bucket with many requests at once."""

from __future__ import annotations

import bisect
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.storage.ranges import Page, iter_pages, middle
from pipeline.storage.uris import ObjectInfo

KEYS = st.lists(st.text(min_size=1, max_size=6), max_size=60, unique=True).map(
    lambda keys: [key for key in keys if all(not 0xD800 <= ord(c) <= 0xDFFF for c in key)]
)


class Bucket:
    """Lists keys in order, page by page, as a store does; counts the requests."""

    def __init__(self, keys: list[str], page: int = 3) -> None:
        self.keys = sorted(keys)
        self.page = page
        self.asked = 0
        self.at_once = 0
        self.most_at_once = 0
        self.lock = threading.Lock()

    def list_page(self, after: str) -> Page:
        with self.lock:
            self.asked += 1
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        threading.Event().wait(0.0005)
        first = bisect.bisect_right(self.keys, after)
        keys = self.keys[first : first + self.page]
        with self.lock:
            self.at_once -= 1
        return [(key, ObjectInfo(key, "e", 1)) for key in keys], first + self.page < len(self.keys)


def listed(bucket: Bucket, listers: int = 8, start: str = "") -> list[str]:
    return [info.uri for page in iter_pages(bucket.list_page, start, listers) for info in page]


@given(keys=KEYS)
@settings(max_examples=60, deadline=None)
def test_every_key_is_listed_once_wherever_the_keys_lie(keys: list[str]) -> None:
    assert sorted(listed(Bucket(keys))) == sorted(keys)


@pytest.mark.parametrize("template", ["{:07d}.jpg", "a/b/c/{:07d}", "日/{:05x}.png", "{0:02x}/{0}"])
def test_a_long_folder_is_divided_among_the_listers(template: str) -> None:
    bucket = Bucket([template.format(n % 256 if "/{0}" in template else n) for n in range(3000)])
    bucket.keys = sorted({template.format(n) for n in range(3000)})
    assert sorted(listed(bucket)) == bucket.keys
    assert bucket.most_at_once >= 6
    # One lister alone needs 1000 requests; the rest is the cost of the cuts.
    assert bucket.asked < 1400


def test_one_lister_lists_in_order() -> None:
    bucket = Bucket([f"{n}" for n in range(100)])
    assert listed(bucket, listers=1) == bucket.keys


def test_keys_before_the_start_are_not_listed() -> None:
    assert sorted(listed(Bucket(["a", "b", "c", "d"]), start="b")) == ["c", "d"]


def test_an_error_is_raised_where_the_pages_are_read() -> None:
    def broken(after: str) -> Page:
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError, match="gone"):
        list(iter_pages(broken, ""))


def test_the_listers_stop_when_the_reader_stops() -> None:
    bucket = Bucket([f"{n:06d}" for n in range(30_000)])
    pages = iter_pages(bucket.list_page, "")
    next(pages)
    pages.close()
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and thread.daemon and "lister" in thread.name:
            thread.join(5)
    assert bucket.asked < 2000


@given(after=st.text(max_size=5), until=st.text(max_size=5))
@settings(max_examples=300)
def test_the_middle_lies_between_two_keys(after: str, until: str) -> None:
    for end in (until, None):
        cut = middle(after, end)
        assert cut is None or (after < cut and (end is None or cut < end))
