"""The files of a data set, listed once. The label formats read everything through this list."""

from __future__ import annotations

import codecs
import logging
import os
import posixpath
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from pipeline.annotations.packed import packed_files
from pipeline.errors import UserError
from pipeline.images import IMAGE_SUFFIXES, ORIGINAL_SUFFIXES
from pipeline.runtime.prefetch import REQUESTS_AT_ONCE, prefetch
from pipeline.runtime.progress import Progress
from pipeline.storage import (
    ObjectInfo,
    absolute,
    driver_errors,
    is_system_file,
    list_objects,
    read_bytes,
    read_listed,
)
from pipeline.storage.chains import PACKED
from pipeline.storage.small_objects import SMALL_AT_ONCE
from pipeline.storage.uris import parse

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

_LITTER = re.compile(
    r"(?:^|/)(?:\.[^/]*|__MACOSX|@eaDir|lost\+found|\$RECYCLE\.BIN|System Volume Information"
    r"|Thumbs\.db|desktop\.ini)(?:/|$)",
    re.IGNORECASE,
)
"""Files that other programs leave: macOS (``._a.jpg``, ``__MACOSX/``), notebooks, Windows, NAS boxes, git."""
_BESIDE = re.compile(
    r"(?:read.?me|licen[cs]e|notice|citation|changelog)[^/]*|[^/]*\.(?:md|pdf|html?|zip|tar|gz|sh|py|ipynb)",
    re.IGNORECASE,
)
"""Files that may lie beside the one folder of an unpacked archive."""


_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_SMALL = 2**20
"""Bytes of the largest file that counts as a small object."""


@dataclass(frozen=True, kw_only=True)
class Tree:
    """The files of a data set. Paths are relative to `root`, with forward slashes, byte for byte."""

    root: str
    """URI of the data set, with a slash at its end."""
    objects: Mapping[str, ObjectInfo]
    """Path -> the object, sorted by path."""

    @cached_property
    def paths(self) -> tuple[str, ...]:
        """The paths of all files, sorted."""
        return tuple(self.objects)

    def images(self, folder: str = "") -> list[str]:
        """List the images under `folder`, sorted, as `images_by_stem` counts them."""
        return sorted(path for paths in self.images_by_stem(folder).values() for path in paths)

    def uri(self, path: str) -> str:
        """Return the full URI of a path."""
        info = self.objects.get(path)
        return self.root + path if info is None else info.uri

    def read(self, path: str) -> bytes:
        """Read a whole file. Raises `UserError`."""
        info = self.objects.get(path)
        with driver_errors(self.uri(path)):
            if info is not None and info.size is not None and info.size <= _SMALL:
                return read_listed(info)
            return read_bytes(self.uri(path))

    def read_text(self, path: str) -> str:
        """Read a whole text file, as `decoded` does. Raises `UserError`."""
        try:
            return decoded(self.read(path))
        except UnicodeDecodeError as error:
            raise UserError(
                self.uri(path), f"is not UTF-8 text ({error})", "Save it as UTF-8."
            ) from error

    def read_line(self, path: str) -> str:
        """Return the first line of a text file, empty if it cannot be decoded. Raises `UserError`."""
        if path not in self._first_lines:
            data = self.read(path)
            head = data if data.startswith(_UTF_16) else data.partition(b"\n")[0]
            try:
                self._first_lines[path] = decoded(head).partition("\n")[0].strip()
            except UnicodeDecodeError:
                self._first_lines[path] = ""
        return self._first_lines[path]

    def below(self, folder: str, suffixes: tuple[str, ...]) -> list[str]:
        """List the paths under `folder`, at any depth, that end in one of the suffixes, in any case.

        An empty `folder` means the whole data set.
        """
        prefix = f"{folder}/" if folder else ""
        return [p for p in self.paths if p.startswith(prefix) and p.lower().endswith(suffixes)]

    def images_by_stem(self, folder: str) -> dict[str, list[str]]:
        """Group the images under `folder` by their path without suffix, in composed letters.

        A phone's original, as ``a.heic``, does not count beside ``a.jpg``: people label the copy that their
        tools can show.
        """
        images: dict[str, list[str]] = {}
        for path in self.below(folder, IMAGE_SUFFIXES):
            images.setdefault(stem_of(path), []).append(path)
        for stem, paths in images.items():
            copies = [path for path in paths if not path.lower().endswith(ORIGINAL_SUFFIXES)]
            images[stem] = copies or paths
        return images

    def find(self, path: str) -> str | None:
        """Return the listed path that `path` means, or None.

        Letters such as é may be one character or two. If no path is equal in that sense, the case of
        letters is ignored too, provided that only one path is left.
        """
        if path in self.objects:
            return path
        for key in (composed(path), composed(path).casefold()):
            paths = self._by_key.get(key, [])
            if len(paths) == 1:
                return paths[0]
        return None

    def same_name(self, path: str) -> list[str]:
        """List the paths whose base name equals that of `path`, in any form of its letters."""
        return self._by_name.get(composed(posixpath.basename(path)).casefold(), [])

    def identity(self, path: str) -> str:
        """Return a text that is equal for paths of one content: links to one file, copies in a bucket."""
        location = parse(self.uri(path))
        if location.scheme in PACKED:  # the members of an archive share its ETag
            return location.uri
        return os.path.realpath(location.path) if location.is_local else self.objects[path].etag

    def under(self, folder: str) -> Tree:
        """Return the tree of one folder."""
        prefix = f"{folder}/"
        objects = {
            p.removeprefix(prefix): o for p, o in self.objects.items() if p.startswith(prefix)
        }
        return Tree(root=self.root + prefix, objects=objects)

    @cached_property
    def folders(self) -> tuple[str, ...]:
        """The names of the folders at the top, sorted."""
        return tuple(sorted({path.partition("/")[0] for path in self.paths if "/" in path}))

    @cached_property
    def only_folder(self) -> str | None:
        """The folder that holds everything, as archives unpack; None if there is none."""
        beside = (path for path in self.paths if "/" not in path)
        if len(self.folders) == 1 and all(_BESIDE.fullmatch(path) for path in beside):
            return self.folders[0]
        return None

    @cached_property
    def _first_lines(self) -> dict[str, str]:
        return {}

    @cached_property
    def _by_key(self) -> dict[str, list[str]]:
        keys: dict[str, list[str]] = {}
        for path in self.paths:
            form = composed(path)
            for key in dict.fromkeys((form, form.casefold())):
                keys.setdefault(key, []).append(path)
        return keys

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        names: dict[str, list[str]] = {}
        for path in self.paths:
            names.setdefault(composed(posixpath.basename(path)).casefold(), []).append(path)
        return names


def list_tree(uri: str, images_at: str | None = None) -> Tree:
    """List the folder of a data set, without what other programs leave in folders.

    Args:
        uri: the folder. With `images_at`, also one annotation file.
        images_at: the folder of the images, if they lie apart. They are listed as ``images/...``, and label
            files that lie directly in the folder `uri`, without labels/ beside them, as ``labels/...``.

    Raises:
        UserError: there is no file.
    """
    root = absolute(uri).rstrip("/") + "/"
    if images_at is None:
        return Tree(root=root, objects=_listed(root))
    objects = _labels(uri, root)
    images = {
        f"images/{path}": info
        for path, info in _listed(absolute(images_at).rstrip("/") + "/").items()
        if path.lower().endswith(IMAGE_SUFFIXES)
    }
    if not images:
        raise UserError(
            f"--images-at {images_at}", "holds no image", "Give the folder of the images."
        )
    return Tree(root=root, objects=dict(sorted((objects | images).items())))


def _labels(uri: str, root: str) -> dict[str, ObjectInfo]:
    """List the label files of a data set whose images lie apart."""
    found = list_objects(absolute(uri))
    if [info.uri for info in found] == [absolute(uri)]:
        return {posixpath.basename(info.uri): info for info in found}
    paths = {info.uri.removeprefix(root): info for info in found}
    paths = {path: info for path, info in paths.items() if not _LITTER.search(path)}
    # classes.txt or labelmap.txt at the top is no label file if the labels have a folder.
    in_folder = any(path.lower().startswith(("labels/", "annotations/")) for path in paths)
    if not in_folder and any("/" not in p and p.endswith((".xml", ".txt")) for p in paths):
        paths = {f"labels/{path}": info for path, info in paths.items()}
    return {p: i for p, i in paths.items() if not p.lower().endswith(IMAGE_SUFFIXES)}


def _listed(root: str) -> dict[str, ObjectInfo]:
    if (packed := packed_files(root)) is not None:
        return {path: packed[path] for path in sorted(packed) if not _LITTER.search(path)}
    found = list_objects(root)
    if [info.uri for info in found] == [root.rstrip("/")]:
        raise UserError(
            root.rstrip("/"),
            "is a file, and a folder was expected",
            "Give the folder that holds it, or --annotations FILE --images-at FOLDER.",
        )
    paths = [(info.uri.removeprefix(root), info) for info in found]
    kept = {path: info for path, info in paths if not _LITTER.search(path)}
    if left := sum(is_system_file(path) for path, _ in paths):
        logger.info(
            "%s: left out %d files of macOS or Jupyter (._*, __MACOSX/, .ipynb_checkpoints/)",
            root,
            left,
        )
    return kept


def read_many(tree: Tree, call: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Return call(item) for each item, in order, with many requests at a time, and show the progress.

    Args:
        tree: where `call` reads.
    """
    results: list[Result] = []
    threads = REQUESTS_AT_ONCE if parse(tree.root).is_local else SMALL_AT_ONCE
    with Progress("reading labels", len(items), "files") as progress:
        for result in prefetch(call, items, threads=threads):
            results.append(result)
            if not len(results) % 256:
                progress.update(len(results))
        progress.update(len(results))
    return results


def decoded(data: bytes) -> str:
    """Decode the bytes of a text file: UTF-8, or UTF-16 with its byte order mark, as Windows writes it.

    Raises:
        UnicodeDecodeError: they are neither.
    """
    return data.decode("utf-16" if data.startswith(_UTF_16) else "utf-8-sig")


def composed(text: str) -> str:
    """Write letters with accents as one character each, so that names from macOS equal others."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def stem_of(path: str) -> str:
    """Return the path without its suffix, in composed letters."""
    return composed(posixpath.splitext(path)[0])


def only_image(tree: Tree, paths: list[str]) -> str:
    """Return the only image of `paths`, the images with one stem. Several links to one file are one image.

    Raises:
        UserError: there are several, so it is unclear which of them the annotation is for.
    """
    if len(paths) > 1 and len({tree.identity(path) for path in paths}) > 1:
        raise UserError(
            tree.uri(paths[0]),
            f"has the same stem as {', '.join(paths[1:])}, and one annotation cannot be for both",
            "Rename one of them.",
        )
    return paths[0]


def unique_ids(paths: list[str]) -> list[str]:
    """Give each image an id: its stem. If two share a stem, each id is the path without suffix.

    If two of these are equal, each id is the whole path.
    """
    stems = [posixpath.splitext(posixpath.basename(path))[0] for path in paths]
    if len(set(stems)) == len(stems):
        return stems
    whole = [posixpath.splitext(path)[0] for path in paths]
    return whole if len(set(whole)) == len(whole) else list(paths)
