"""Unpacks tars that are compressed as a whole, so that their members can be read, for `jobs/pack.py`.

The compressed tar is read once, from the front, into a temporary file without a name.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from pipeline.errors import UserError, one_line
from pipeline.storage.archives.limits import MOST_RATIO
from pipeline.storage.archives.tar import TarMember, iter_tar
from pipeline.storage.archives.window import Window
from pipeline.storage.objects import local_copy, read_range
from pipeline.storage.uris import without_query

ALLOWED_BYTES = 2**30
"""Bytes that any tar may unpack to."""
_CODECS = (
    ((".gz", ".tgz"), "gzip"),
    ((".zst", ".tzst"), "zstd"),
    ((".bz2", ".tbz2"), "bz2"),
    ((".lz4",), "lz4"),
)


class UnpackedTar:
    """A tar in a local file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def members(self) -> Iterator[TarMember]:
        """Yield its members, as `iter_tar`."""
        return iter_tar(Window(str(self._path), size=self._path.stat().st_size, etag=None))

    def read(self, member: TarMember) -> bytes:
        """Read the body of a file."""
        return read_range(str(self._path), first=member.offset, length=member.size)


def _copy(source: pa.NativeFile, target: BinaryIO, most: int, uri: str) -> None:
    while data := source.read(1 << 20):
        target.write(data)
        if target.tell() > most:
            raise UserError(
                uri,
                f"unpacks to more than {MOST_RATIO} times its size, and to more than {ALLOWED_BYTES} bytes",
                "It may be made to fill a disk. If you trust it, unpack it yourself.",
            )


@contextmanager
def unpacked(uri: str) -> Iterator[UnpackedTar]:
    """Give a compressed tar as a plain one in a temporary file.

    Raises:
        UserError: it is compressed in a way that is not read, or the compressed bytes are damaged.
        StorageError: it cannot be read.
    """
    name = without_query(uri).lower()
    codec = next((codec for suffixes, codec in _CODECS if name.endswith(suffixes)), None)
    if codec is None:
        raise UserError(
            uri, "is compressed with xz, which is not read", "Unpack it: xz --decompress."
        )
    with tempfile.TemporaryDirectory(prefix="unpacked-") as folder, local_copy(uri) as local:
        path = Path(folder) / "tar"
        try:
            with pa.OSFile(str(local)) as source, path.open("wb") as target:
                most = max(ALLOWED_BYTES, MOST_RATIO * local.stat().st_size)
                _copy(pa.CompressedInputStream(source, codec), target, most, uri)
        except (OSError, pa.ArrowException) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # of the machine, such as a full disk
            raise UserError(
                uri, f"is damaged, or no {codec} data ({one_line(error)})", "Write it again."
            ) from error
        yield UnpackedTar(path)
