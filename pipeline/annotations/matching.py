"""Finds the image that a label file names by a path of another machine or another folder."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from urllib.parse import unquote

from pipeline.annotations.labelled import first_few
from pipeline.annotations.names import role, role_of_path, roles_differ
from pipeline.annotations.tree import Tree, composed, only_image, stem_of
from pipeline.errors import UserError
from pipeline.images import IMAGE_SUFFIXES

_DRIVE = re.compile(r"^(?:[A-Za-z]:|[a-z][a-z0-9+.-]*://)")


@dataclass(frozen=True, kw_only=True)
class Matcher:
    """Finds the images of one list of paths, and keeps what could not be found or is not certain.

    A path is looked up below `folders`. If it is not there, the file of this name with the longest common
    end of its path is taken, as long as there is only one, and no folder says that it is of another split.
    """

    tree: Tree
    uri: str
    """The file that names the paths, for errors."""
    split: str
    """The split that the file is for."""
    folders: Sequence[str]
    """Folders to which the paths may be relative."""
    absent: list[str] = field(default_factory=list)
    by_name: list[str] = field(default_factory=list)

    def find(self, written: str) -> str | None:
        """Return the path of an image in the tree; None if there is none.

        Raises:
            UserError: several images fit equally well.
        """
        name = normal(written)
        for folder in self.folders:
            if path := self.tree.find(posixpath.normpath(posixpath.join(folder, name))):
                return path
        path = self._by_end(name)
        if path is None and unquote(name) != name:  # a name that was a part of a web address
            name = unquote(name)
            paths = (posixpath.normpath(posixpath.join(f, name)) for f in self.folders)
            path = next(filter(None, map(self.tree.find, paths)), None) or self._by_end(name)
        if path is None and not name.lower().endswith(IMAGE_SUFFIXES):
            path = self._by_stem(name)
        if path is None:
            self.absent.append(written)
        return path

    def _by_stem(self, name: str) -> str | None:
        """Return the image that a name without suffix means, such as an id in a table.

        Raises:
            UserError: several images have this stem.
        """
        paths = self._stems.get(composed(posixpath.basename(name)), [])
        paths = [p for p in paths if not roles_differ(role_of_path(p), role(self.split))]
        return only_image(self.tree, paths) if paths else None

    @cached_property
    def _stems(self) -> dict[str, list[str]]:
        stems: dict[str, list[str]] = {}
        for path in self.tree.images():
            stems.setdefault(posixpath.basename(stem_of(path)), []).append(path)
        return stems

    def problems(self) -> list[str]:
        """Say which images were found by their name alone."""
        if not self.by_name:
            return []
        shown = first_few(self.by_name, 3)
        return [f"{self.uri}: images found by their name alone, in another folder: {shown}"]

    def require_all(self) -> None:
        """Raise UserError if an image was not found."""
        if not self.absent:
            return
        advice = "Add the images, or remove them from the list."
        if not self.tree.images():
            advice = "There is no image. Give their folder too: --images-at FOLDER."
        where = ", ".join(f"{folder}/" for folder in self.folders if folder) or "the data set"
        elsewhere = [
            f" A file {path} exists, but belongs to another split."
            for name in self.absent[:1]
            for path in self.tree.same_name(normal(name))[:1]
        ]
        raise UserError(
            self.uri,
            f"lists images that do not exist: {first_few(self.absent)}",
            f"Searched in {where}, and everywhere by the end of the path.{''.join(elsewhere)} {advice}",
        )

    def _by_end(self, name: str) -> str | None:
        """Return the path with the longest common end, unless a folder says that it is of another split."""
        wanted = role_of_path(name) or role(self.split)
        paths = [p for p in self.tree.same_name(name) if not roles_differ(role_of_path(p), wanted)]
        if not paths:
            return None
        lengths = {path: common_end(path, name) for path in paths}
        best = [path for path in paths if lengths[path] == max(lengths.values())]
        best = [path for path in best if wanted and role_of_path(path) == wanted] or best
        if len({self.tree.identity(path) for path in best}) > 1:
            raise UserError(
                f"{name} in {self.uri}",
                f"may be {best[0]} or {best[1]}",
                "Write its path from the folder of the data set, or remove one of the two.",
            )
        whole = {len(best[0].split("/")), len(name.split("/"))}
        if lengths[best[0]] not in whole:
            self.by_name.append(f"{name} is {best[0]}")
        return best[0]


def normal(path: str) -> str:
    """Write a path of another machine with forward slashes; leave out drive, scheme and leading ``../``."""
    name = posixpath.normpath(_DRIVE.sub("", path.strip().replace("\\", "/")))
    name = name.lstrip("/")
    while name.startswith("../"):
        name = name.removeprefix("../")
    return name


def common_end(one: str, other: str) -> int:
    """Count the parts that two paths share at their ends."""
    pairs = zip(*(reversed(composed(p).casefold().split("/")) for p in (one, other)), strict=False)
    return next(
        (n for n, (a, b) in enumerate(pairs) if a != b), min(one.count("/"), other.count("/")) + 1
    )
