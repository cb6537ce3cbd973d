"""Parses URIs: `scheme://path` or a plain local path.

A key may hold any bytes, and nothing in it has a special meaning. fsspec's `url_to_fs` would read "::" as a
chain of file systems, `*[?` as patterns and ``?versionId=`` as a version, so it gets no URI: each store gets
the path as written. Nothing is percent-decoded. Local paths become absolute, and links are kept. A leading
``~`` or ``~user`` is the home folder, as in a shell; ``./~`` names a file with this name. ``file://`` is kept
if it was given. The URI of a member of an archive is a chain of two, see `pipeline.storage.chains`.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from pipeline.errors import UserError
from pipeline.storage.chains import member_part, split_chain

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
LOCAL = ("file", "local")
"""Schemes of files of this machine."""
_THIS_MACHINE = "localhost"
"""The only host of a ``file://`` URI that this machine can read, besides none."""
_SYSTEM_FOLDERS = frozenset(("__MACOSX", ".ipynb_checkpoints"))
_MAGIC = re.compile(r"[*?\[]")
_TOKENS = re.compile(
    r"(?P<folders>(?:(?<=/)|^)\*\*/)|(?P<all>\*\*)|(?P<some>\*)|(?P<one>\?)"
    r"|\[(?P<set>!?\]?[^\]]*)\]|(?P<char>.)",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object of a listing."""

    uri: str
    """Full URI, byte for byte; the absolute path of a local file."""
    etag: str
    """Changes with the content. S3: the ETag without quotes; local: ``<mtime_ns>-<size>`` in hex."""
    size: int | None
    """Size in bytes. None: the store does not state it, as some web servers do not."""


@dataclass(frozen=True, slots=True)
class Location:
    """The parts of a URI; ``root + path`` is the URI again."""

    scheme: str
    """`file` for local paths; else the scheme as given, in lower case."""
    root: str
    """The text before the path: ``s3://``, ``file://``, ``file://localhost`` or empty."""
    path: str
    """``bucket/key`` or an absolute local path."""

    @property
    def uri(self) -> str:
        return self.root + self.path

    @property
    def is_local(self) -> bool:
        return self.scheme == "file"


def parse(uri: str) -> Location:
    """Split a URI into its parts. Relative local paths become absolute, and `~` becomes the home folder.

    The path of a member of an archive is ``NAME::ARCHIVE``.
    """
    match = _SCHEME.match(uri)
    if match is None:
        return Location("file", "", os.path.abspath(os.path.expanduser(uri)))
    scheme, path = match[1].lower(), uri[match.end() :]
    if scheme in LOCAL:
        host = _THIS_MACHINE if path.startswith(_THIS_MACHINE + "/") else ""
        return Location("file", match[0] + host, os.path.abspath(path.removeprefix(host)))
    if chain := split_chain(uri):
        return Location(scheme, match[0], f"{chain.name}::{parse(chain.archive).uri}")
    return Location(scheme, match[0], path)


def scheme_of(uri: str) -> str:
    """Return the scheme of a URI in lower case; empty for a path without one."""
    match = _SCHEME.match(uri)
    return "" if match is None else match[1].lower()


def without_query(uri: str) -> str:
    """Return a web address without what follows ``?`` or ``#``. In other URIs these are part of the key."""
    return re.split(r"[?#]", uri, maxsplit=1)[0] if scheme_of(uri) in ("http", "https") else uri


def absolute(uri: str) -> str:
    """Return the spelling of a URI that listings, lists of images and annotations use alike."""
    return parse(uri).uri


def join(uri: str, *parts: str) -> str:
    """Append `parts` to `uri`, with one slash between two parts. The parts are keys, not patterns."""
    return "/".join((uri.rstrip("/"), *(part.strip("/") for part in parts)))


def basename(uri: str) -> str:
    """Return the part after the last slash; of a member of an archive, of its name."""
    return member_part(uri).rpartition("/")[2]


def stem(uri: str) -> str:
    """Return the base name without its last suffix: ``s3://b/a.b.JPG`` -> ``a.b``.

    A dot at the beginning of the name starts no suffix.
    """
    return os.path.splitext(basename(uri))[0]


def is_system_file(path: str) -> bool:
    """Whether a program left this file beside the user's files, whatever its suffix.

    macOS writes ``._a.jpg`` beside ``a.jpg`` on disks of other systems, and ``__MACOSX/`` into archives.
    Jupyter keeps copies in ``.ipynb_checkpoints/``.
    """
    *folders, name = path.split("/")
    return name.startswith("._") or not _SYSTEM_FOLDERS.isdisjoint(folders)


def is_pattern(path: str) -> bool:
    """Whether `path` could be a glob; an object may have exactly this name all the same."""
    return _MAGIC.search(path) is not None


def literal_prefix(pattern: str) -> str:
    """Return the text with which every match of the glob starts."""
    match = _MAGIC.search(pattern)
    return pattern if match is None else pattern[: match.start()]


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Turn a glob into a regular expression for `fullmatch`. Only ``**`` matches across folders.

    The globs of fsspec and of Python accept ``**`` only as a whole part of a path, and fail if a key holds a
    line end.

    Raises:
        UserError: a range that runs backwards, as in ``[z-a]``.
    """
    try:
        return re.compile("".join(map(_translate, _TOKENS.finditer(pattern))), re.DOTALL)
    except re.error as error:
        raise UserError(
            pattern, f"is not a valid glob ({error.msg})", "Correct the text in the brackets."
        ) from error


def _translate(token: re.Match[str]) -> str:
    match token.lastgroup:
        case "folders":  # "a/**/b" is also "a/b"
            return "(?:.*/)?"
        case "all":
            return ".*"
        case "some":
            return "[^/]*"
        case "one":
            return "[^/]"
        case "set":
            negated = "^" if token["set"].startswith("!") else ""
            members = re.sub(r"([\\\[\]^&~|])", r"\\\1", token["set"].removeprefix("!"))
            return f"(?!/)[{negated}{members}]"
        case _:
            return re.escape(token[0])
