"""The files of a data set, listed once. The label formats read everything through this list."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass

from pipeline.errors import UserError
from pipeline.images import IMAGE_SUFFIXES
from pipeline.storage import absolute, driver_errors, list_objects, read_bytes


@dataclass(frozen=True, slots=True)
class Tree:
    """The files of a data set. Paths are relative to `root`, with forward slashes."""

    root: str
    """URI of the data set, with a slash at its end."""
    paths: tuple[str, ...]
    """The paths of all files, sorted."""
    known: frozenset[str]
    """The same paths as a set."""

    def uri(self, path: str) -> str:
        """Return the full URI of a path."""
        return self.root + path

    def read(self, path: str) -> bytes:
        """Read a whole file. Raises `UserError`."""
        with driver_errors(self.uri(path)):
            return read_bytes(self.uri(path))

    def read_text(self, path: str) -> str:
        """Read a whole file as UTF-8, without its byte order mark. Raises `UserError`."""
        try:
            return self.read(path).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise UserError(
                self.uri(path), f"is not UTF-8 text ({error})", "Save it as UTF-8."
            ) from error

    def below(self, folder: str, suffixes: tuple[str, ...]) -> list[str]:
        """List the paths under `folder`, at any depth, that end in one of the suffixes, in any case.

        An empty `folder` means the whole data set.
        """
        prefix = f"{folder}/" if folder else ""
        return [p for p in self.paths if p.startswith(prefix) and p.lower().endswith(suffixes)]

    def images_by_stem(self, folder: str) -> dict[str, list[str]]:
        """Group the images under `folder` by their path without suffix."""
        images: dict[str, list[str]] = {}
        for path in self.below(folder, IMAGE_SUFFIXES):
            images.setdefault(posixpath.splitext(path)[0], []).append(path)
        return images


def list_tree(uri: str) -> Tree:
    """List the folder of a data set. Raises `UserError` if it holds no file."""
    root = absolute(uri).rstrip("/") + "/"
    paths = tuple(info.uri.removeprefix(root) for info in list_objects(root))
    return Tree(root, paths, frozenset(paths))


def only_image(paths: list[str], root: str) -> str:
    """Return the only image of `paths`, the images with one stem.

    Raises:
        UserError: there are several, so it is unclear which of them the annotation is for.
    """
    if len(paths) > 1:
        raise UserError(
            root + paths[0],
            f"has the same stem as {', '.join(paths[1:])}, and one annotation cannot be for both",
            "Rename one of them.",
        )
    return paths[0]


def unique_ids(paths: list[str]) -> list[str]:
    """Give each image an id: its stem. If two share a stem, each id is the path without suffix."""
    stems = [posixpath.splitext(posixpath.basename(path))[0] for path in paths]
    if len(set(stems)) == len(stems):
        return stems
    return [posixpath.splitext(path)[0] for path in paths]
