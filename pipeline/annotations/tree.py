"""The files of a data set, listed once; everything that looks for a layout looks here."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass

from pipeline.errors import UserError
from pipeline.images import IMAGE_SUFFIXES
from pipeline.storage import absolute, driver_errors, list_objects, read_bytes


@dataclass(frozen=True, slots=True)
class Tree:
    """Paths relative to `root`, with forward slashes."""

    root: str
    """URI of the data set, with a slash at its end."""
    paths: tuple[str, ...]
    """Sorted."""
    known: frozenset[str]
    """The same, for asking."""

    def uri(self, path: str) -> str:
        """The full URI of a path."""
        return self.root + path

    def read(self, path: str) -> bytes:
        """A whole file. Raises `UserError`."""
        with driver_errors(self.uri(path)):
            return read_bytes(self.uri(path))

    def read_text(self, path: str) -> str:
        """A whole file as UTF-8, a byte order mark taken off. Raises `UserError`."""
        try:
            return self.read(path).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise UserError(self.uri(path), f"not UTF-8 ({error})", "Write it as UTF-8.") from error

    def below(self, folder: str, suffixes: tuple[str, ...]) -> list[str]:
        """Paths under `folder` (empty: all), at any depth, with one of the suffixes in any case."""
        prefix = f"{folder}/" if folder else ""
        return [p for p in self.paths if p.startswith(prefix) and p.lower().endswith(suffixes)]

    def images_by_stem(self, folder: str) -> dict[str, list[str]]:
        """Images under `folder`, by their path without suffix."""
        images: dict[str, list[str]] = {}
        for path in self.below(folder, IMAGE_SUFFIXES):
            images.setdefault(posixpath.splitext(path)[0], []).append(path)
        return images


def list_tree(uri: str) -> Tree:
    """List a data set's folder. Raises `UserError` where there is nothing."""
    root = absolute(uri).rstrip("/") + "/"
    paths = tuple(info.uri.removeprefix(root) for info in list_objects(root))
    return Tree(root, paths, frozenset(paths))


def only_image(candidates: list[str], root: str) -> str:
    """The image of a stem, which must be one: which of two is meant nobody could say.

    Raises:
        UserError: there are several.
    """
    if len(candidates) > 1:
        raise UserError(
            root + candidates[0],
            f"so is {', '.join(candidates[1:])}, and one annotation cannot be for both",
            "Rename one of them.",
        )
    return candidates[0]


def unique_ids(paths: list[str]) -> list[str]:
    """An id an image: its stem, or where two share one, for all the path without suffix."""
    stems = [posixpath.splitext(posixpath.basename(path))[0] for path in paths]
    if len(set(stems)) == len(stems):
        return stems
    return [posixpath.splitext(path)[0] for path in paths]
