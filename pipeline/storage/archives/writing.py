"""Makes tars whose bytes depend on names and contents only: no times, no owners."""

from __future__ import annotations

import tarfile

from pipeline.storage.archives.tar import BLOCK
from pipeline.storage.chains import member_name, split_chain
from pipeline.storage.uris import scheme_of


def header_of(name: bytes, size: int) -> bytes:
    """Return the header of a file, in GNU format, which has no limit for names and sizes."""
    info = tarfile.TarInfo(name.decode("utf-8", "surrogateescape"))
    info.size, info.mode = size, 0o644
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def padding(size: int) -> bytes:
    """Return the zeros that follow a body of this size."""
    return bytes(-size % BLOCK)


def unique_name(uri: str, root: str) -> bytes:
    """Return the name of an image in a tar: its path below `root`, else its URI without ``://``.

    A member of an archive gets the name of the archive as a folder.
    """
    chain = split_chain(uri)
    if chain is not None:
        archive = unique_name(chain.archive, root)
        return archive + b"/" + member_name(chain.name)
    if root and uri.startswith(root):
        path = uri.removeprefix(root)
    else:
        scheme = scheme_of(uri)
        path = uri if not scheme else f"{scheme}/{uri.partition('://')[2]}"
    return path.lstrip("/").encode("utf-8", "surrogateescape")


def end_of(size: int) -> bytes:
    """Return the end mark of a tar of this size so far, which fills the last record of 10 KB."""
    return bytes(2 * BLOCK + -(size + 2 * BLOCK) % tarfile.RECORDSIZE)
