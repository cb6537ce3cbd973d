"""Decides which objects of a listing are images, and which archives are opened."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from pipeline import storage
from pipeline.images import IMAGE_SUFFIXES
from pipeline.scoring.packed import ArchiveOptions, LeaveOut, same_archive
from pipeline.storage.chains import member_part
from pipeline.storage.uris import compile_pattern, is_pattern, literal_prefix

MARKER, SUFFIX, EXCLUDED = "folder markers", "without an image suffix", "filtered out"
ARCHIVE = "archives (--archives opens them)"
SYSTEM = "left by macOS or Jupyter (._*, __MACOSX/, .ipynb_checkpoints/)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Filter:
    """The patterns that select objects under a prefix.

    A pattern without a slash is matched against the name of the object, in any folder. A pattern with a slash
    is matched against the part of the URI after the prefix (in lists: the whole URI). ``**`` crosses folders.
    """

    include: tuple[str, ...] = ()
    """Keep only objects that match one of these, with any suffix. Empty: keep names with an image suffix."""
    exclude: tuple[str, ...] = ()
    """Leave out objects that match one of these."""


def filter_function(images: str, keep: Filter, *, is_list: bool) -> LeaveOut:
    """Make a function that takes the URI, ETag and size of an object.

    It returns the cause why the object is left out, or None if the object is selected.
    """
    folder = folder_of(images)
    wanted, unwanted = ([*map(_compile, globs)] for globs in (keep.include, keep.exclude))
    whole_name = storage.absolute(images)
    above = literal_prefix(whole_name).rpartition("/")[0] if is_pattern(whole_name) else folder
    inventory = storage.is_inventory(images)
    every_name = is_list and not inventory

    def cause_to_leave_out(uri: str, etag: str | None, size: int | None) -> str | None:
        if not every_name and storage.is_marker(uri, size):
            return MARKER
        member = member_part(uri)
        path, name = _path_of(uri, member, folder), storage.basename(uri)
        # An object that --images names itself is wanted.
        if (
            not every_name
            and uri != whole_name
            and storage.is_system_file(member.removeprefix(above))
        ):
            return SYSTEM

        def matches(patterns: list[tuple[bool, re.Pattern[str]]]) -> bool:
            return any(p.fullmatch(path if whole else name) for whole, p in patterns)

        if wanted and not matches(wanted):
            return EXCLUDED
        by_suffix = inventory or member is not uri or uri.startswith(folder)
        if by_suffix and not wanted and not every_name and not _may_be_image(uri, member):
            return SUFFIX
        return EXCLUDED if unwanted and matches(unwanted) else None

    return cause_to_leave_out


def _path_of(uri: str, member: str, folder: str) -> str:
    """Return what patterns are compared with. ``tar -c .`` writes ``./`` before all names of members."""
    return uri.removeprefix(folder) if member is uri else member.removeprefix("./")


def _may_be_image(uri: str, member: str) -> bool:
    """Whether the name has an image suffix. The rows of a Parquet file have no names."""
    return member.lower().endswith(IMAGE_SUFFIXES) or uri.startswith("parquet://")


def _compile(pattern: str) -> tuple[bool, re.Pattern[str]]:
    return "/" in pattern, compile_pattern(pattern)


def folder_of(uri: str) -> str:
    return storage.absolute(uri).rstrip("/") + "/"


def opening_function(images: str, keep: Filter, archives: ArchiveOptions) -> Callable[[str], bool]:
    """Make a function that takes the URI of an archive, and returns whether it is opened."""
    folder = folder_of(images)
    wanted, unwanted = (naming_function(images, globs) for globs in (keep.include, keep.exclude))

    def is_opened(uri: str) -> bool:
        if unwanted(uri):
            return False
        is_named = not uri.startswith(folder) or same_archive(images, uri)
        return archives.open_all or is_named or wanted(uri)

    return is_opened


def naming_function(images: str, globs: tuple[str, ...]) -> Callable[[str], bool]:
    """Make a function that takes the URI of an archive, and returns whether one of the globs matches it."""
    folder, patterns = folder_of(images), [*map(_compile, globs)]

    def is_matched(uri: str) -> bool:
        path, name = uri.removeprefix(folder), storage.basename(uri)
        return any(p.fullmatch(path if whole else name) for whole, p in patterns)

    return is_matched
