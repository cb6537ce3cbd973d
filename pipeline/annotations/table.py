"""Reads the head of CSV tables of boxes: which columns there are, and for which split a table is."""

from __future__ import annotations

import csv
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pipeline.annotations.names import split_of_file
from pipeline.annotations.tree import Tree
from pipeline.errors import UserError

_DELIMITERS = (",", ";", "\t")
SUFFIXES = (".csv", ".tsv")


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A table of boxes and the columns that are used."""

    path: str
    delimiter: str
    columns: Mapping[str, int]
    """What a column means -> its number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TableKind:
    """A kind of tables, known by the columns in the first line."""

    meanings: Mapping[str, Sequence[str]]
    """What a column means -> the names that it may have."""
    optional: Sequence[str]
    """The columns that a table may lack."""

    def find(self, tree: Tree) -> dict[str, Table]:
        """Map each split to its table.

        Raises:
            UserError: two tables are for one split.
        """
        found: dict[str, Table] = {}
        for path in tree.below("", SUFFIXES):
            if path.count("/") > 3 or (table := self._open(tree, path)) is None:
                continue
            split = split_of_file(path)
            if split in found:
                raise UserError(
                    tree.root,
                    f"{found[split].path} and {path} are both tables of the split {split!r}",
                    "Remove one of them, or put train, val or test into their names.",
                )
            found[split] = table
        return found

    def looks_like(self, tree: Tree) -> bool:
        """Whether the first line of some table has the columns."""
        return bool(self.find(tree))

    def splits(self, tree: Tree) -> tuple[str, ...]:
        """List the splits that have a table."""
        return tuple(sorted(self.find(tree)))

    def _open(self, tree: Tree, path: str) -> Table | None:
        """Read the first line of a table; None if it lacks a column."""
        first = tree.read_line(path)
        for delimiter in _DELIMITERS:
            names = [_plain(name) for name in next(csv.reader([first], delimiter=delimiter), [])]
            columns = {
                meaning: next((names.index(name) for name in allowed if name in names), -1)
                for meaning, allowed in self.meanings.items()
            }
            needed = (number for meaning, number in columns.items() if meaning not in self.optional)
            if all(number >= 0 for number in needed):
                return Table(path=path, delimiter=delimiter, columns=columns)
        return None


def _plain(name: str) -> str:
    """Write a column name without case, spaces, ``-`` and ``_``."""
    return re.sub(r"[\s_\-]+", "", name).lower()


def rows(tree: Tree, table: Table) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the place of each row, such as ``line 2``, and its values by meaning; missing ones are empty.

    Raises:
        UserError: a row has fewer fields than columns are needed.
    """
    lines = tree.read_text(table.path).splitlines()
    reader = csv.reader(lines, delimiter=table.delimiter)
    next(reader)
    for fields in reader:
        if not any(field.strip() for field in fields):
            continue
        if len(fields) <= max(table.columns.values()):
            raise UserError(
                f"{tree.uri(table.path)} (line {reader.line_num})",
                f"has {len(fields)} fields",
                f"Expected at least {max(table.columns.values()) + 1}, as in the first line.",
            )
        values = {m: fields[at].strip() if at >= 0 else "" for m, at in table.columns.items()}
        yield f"line {reader.line_num}", values


def image_folders(path: str, split: str) -> tuple[str, ...]:
    """List the usual folders of the images of a table."""
    beside = posixpath.dirname(path)
    return tuple(
        dict.fromkeys((f"images/{split}", split, f"{split}/data", beside, "images", "data", ""))
    )
