"""A bad or unusual image and the statuses that it may get.

`OK_OR_NOT` marks damage that a decoder need not notice: with a flipped bit inside a scan the file is a
different but valid picture.
"""

from __future__ import annotations

from dataclasses import dataclass

OK = frozenset({"ok"})
UNDECODABLE = frozenset({"undecodable"})
TOO_LARGE = frozenset({"too_large"})
OK_OR_NOT = OK | UNDECODABLE


@dataclass(frozen=True, slots=True)
class Hostile:
    """One file and the expected result."""

    name: str
    data: bytes
    statuses: frozenset[str]
    says: str = ""
    """A part of the error, or of the warning of a decoded image."""
