"""Split files: one image path a line, relative to the data set. Trainings write them, and --split reads them.

# images of the split train
images/train/0001.jpg
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline import storage
from pipeline.errors import UserError

_HEAD = re.compile(r"# images of the split (.+)")
_PATH = re.compile(r"^(?:[a-z][a-z0-9+.-]*://|/)")


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitFile:
    """The content of a split file."""

    relative: tuple[str, ...]
    """Paths below a data set, each once."""
    absolute: tuple[str, ...]
    """URIs and absolute paths, each once."""
    source: str | None
    """The split of the data set that the images are from; None if the file does not say."""


def is_split_file(split: str, names: Sequence[str]) -> bool:
    """Whether the value of --split is a file: it ends in ``.txt``, and no split has this name."""
    return split not in names and split.lower().endswith(".txt")


def read_split_file(uri: str) -> SplitFile:
    """Read a split file. Raises `UserError`."""
    with storage.driver_errors(uri):
        data = storage.read_bytes(uri)
    try:
        lines = [line.strip() for line in data.decode("utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise UserError(uri, f"is not UTF-8 text ({error})", "Save it as UTF-8.") from error
    heads = (_HEAD.fullmatch(line) for line in lines)
    source = next((head[1] for head in heads if head), None)
    paths = [line for line in lines if line and not line.startswith("#")]
    if not paths:
        raise UserError(uri, "lists no image", "Give another --split.")
    absolute = dict.fromkeys(path for path in paths if _PATH.match(path))
    relative = dict.fromkeys(path.removeprefix("./") for path in paths if path not in absolute)
    return SplitFile(relative=tuple(relative), absolute=tuple(absolute), source=source)


def split_file(uris: Iterable[str], roots: Sequence[str], source: str) -> bytes:
    """Write the content of a split file.

    Args:
        uris: the images.
        roots: the data set, to which the paths are relative. The images of several data sets are written with
            their whole URI, because a path may exist in each of them.
        source: the split of the data set that the images are from.
    """
    written = [below(uri, roots) if len(roots) == 1 else uri for uri in uris]
    return ("\n".join([f"# images of the split {source}", *sorted(written)]) + "\n").encode()


def below(uri: str, roots: Sequence[str]) -> str:
    """Return the path of an image below its data set; its URI if it lies in none.

    If data sets lie in each other, the innermost counts.
    """
    tops = (f"{storage.absolute(root).rstrip('/')}/" for root in roots)
    return min((uri.removeprefix(top) for top in tops), key=len, default=uri)
