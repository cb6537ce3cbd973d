"""URIs: `scheme://path` or a plain local path, and nothing else.

Keys are bytes to us. fsspec's own `url_to_fs` reads "::" as a chain of file systems, `*[?` as patterns and
``?versionId=`` as a version, so it never sees a URI; each store gets the path as written. Nothing is
percent-decoded. Local paths are made absolute (links are kept), and a leading ``~`` or ``~user`` is the home
folder, as in a shell: ``./~`` names a file that is called so. ``file://`` stays where it was given.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from pipeline.errors import UserError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_MAGIC = re.compile(r"[*?\[]")
_TOKENS = re.compile(
    r"(?P<folders>(?:(?<=/)|^)\*\*/)|(?P<all>\*\*)|(?P<some>\*)|(?P<one>\?)"
    r"|\[(?P<set>!?\]?[^\]]*)\]|(?P<char>.)",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object as it was listed."""

    uri: str
    """Full URI, byte for byte; local files as absolute paths."""
    etag: str
    """Changes when the content does; S3: the ETag without quotes, local: ``<mtime_ns>-<size>`` in hex."""
    size: int
    """Bytes."""


@dataclass(frozen=True, slots=True)
class Location:
    """A URI taken apart; ``root + path`` is the URI again."""

    scheme: str
    """`file` for local paths, else as given, in lower case."""
    root: str
    """What stands before the path: ``s3://``, ``file://`` or nothing."""
    path: str
    """``bucket/key`` or an absolute local path."""

    @property
    def uri(self) -> str:
        return self.root + self.path

    @property
    def is_local(self) -> bool:
        return self.scheme == "file"


def parse(uri: str) -> Location:
    """Take a URI apart; relative local paths become absolute, `~` the home folder."""
    match = _SCHEME.match(uri)
    if match is None:
        return Location("file", "", os.path.abspath(os.path.expanduser(uri)))
    scheme, path = match[1].lower(), uri[match.end() :]
    if scheme in ("file", "local"):
        return Location("file", match[0], os.path.abspath(path))
    return Location(scheme, match[0], path)


def absolute(uri: str) -> str:
    """The one spelling of a URI that listings, manifests and annotations share."""
    return parse(uri).uri


def join(uri: str, *parts: str) -> str:
    """`uri` with `parts` below it, one slash between each two; parts are keys, not patterns."""
    return "/".join((uri.rstrip("/"), *(part.strip("/") for part in parts)))


def basename(uri: str) -> str:
    """What follows the last slash."""
    return uri.rpartition("/")[2]


def stem(uri: str) -> str:
    """The base name without its last suffix: ``s3://b/a.b.JPG`` -> ``a.b``; a leading dot is no suffix."""
    return os.path.splitext(basename(uri))[0]


def is_pattern(path: str) -> bool:
    """Whether `path` could be a glob; an object may still have that very name."""
    return _MAGIC.search(path) is not None


def literal_prefix(pattern: str) -> str:
    """What every match of the glob starts with."""
    match = _MAGIC.search(pattern)
    return pattern if match is None else pattern[: match.start()]


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Glob -> regular expression for `fullmatch`; all but ``**`` stays within a folder.

    fsspec's and Python's own know ``**`` only as a whole path part, and stop at a line end in a key.

    Raises:
        UserError: a range that runs backwards, as in ``[z-a]``.
    """
    try:
        return re.compile("".join(map(_translate, _TOKENS.finditer(pattern))), re.DOTALL)
    except re.error as error:
        raise UserError(
            pattern, f"no glob ({error.msg})", "Mend what is in the brackets."
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
