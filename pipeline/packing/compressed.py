"""Writes the files of tars that are compressed as a whole into plain tars, labels too."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Callable
from contextlib import suppress

from pipeline import storage
from pipeline.errors import JobError
from pipeline.storage.archives.kinds import archive_kind
from pipeline.storage.archives.limits import DEEPEST_LINK
from pipeline.storage.archives.problems import DamagedArchiveError
from pipeline.storage.archives.tar import TarKind, TarMember
from pipeline.storage.archives.unpacking import UnpackedTar, unpacked
from pipeline.storage.archives.writing import end_of, header_of, padding, unique_name
from pipeline.storage.chains import split_chain

logger = logging.getLogger(__name__)

Create = Callable[[str, bytes], None]
"""Creates a tar with a name."""
_LINKS = (TarKind.HARD_LINK, TarKind.SYMBOLIC_LINK)


def compressed_tars(images: str) -> list[str]:
    """Return the tars that are compressed as a whole, if --images names such."""
    if split_chain(images) is not None or archive_kind(images) != "compressed":
        return []
    return [info.uri for info in storage.list_objects(images) if archive_kind(info.uri)]


def repack(uri: str, root: str, tar_bytes: int, create: Create) -> None:
    """Write the files of one compressed tar into tars of at most `tar_bytes`, or of one example.

    A link becomes a copy of its file. What is no file is counted in the log.

    Raises:
        JobError: the tar is damaged. The tars before the damage are written.
    """
    name = unique_name(uri, root).decode("utf-8", "surrogateescape").replace("/", "-")
    out = _Tars(re.sub(r"\.(tar\.\w+|t\w+)$", "", name, flags=re.IGNORECASE), tar_bytes, create)
    left_out: list[bytes] = []
    with unpacked(uri) as tar:
        links = _Links(tar)
        try:
            for member in tar.members():
                file = links.file(member)
                if file is None:
                    left_out.append(member.name)
                else:
                    out.add(member.name, tar.read(file))
        except DamagedArchiveError as error:
            raise JobError(
                f"{uri}: the archive {error.cause} (at byte {error.offset}, unpacked)."
                f" The {out.number} tars before it are written"
            ) from error
        out.end()
    logger.info("%s: %d files in %d tars", uri, out.files, out.number)
    if left_out:
        logger.warning(
            "%s: left out %d sparse files and links that lead to no file, the first is %r",
            uri,
            len(left_out),
            left_out[0].decode("utf-8", "replace"),
        )


class _Links:
    """Finds the files that links lead to. Only the places of these files are in memory."""

    def __init__(self, tar: UnpackedTar) -> None:
        self._targets: dict[bytes, bytes] = {}
        self._files: dict[bytes, TarMember] = {}
        self._before: dict[bytes, TarMember] = {}
        with suppress(DamagedArchiveError):  # it is raised again while the files are written
            for member in tar.members():
                if member.kind in _LINKS:
                    self._targets[member.name] = member.target
            wanted = set(self._targets.values())
            if wanted:
                files = (m for m in tar.members() if m.kind is TarKind.FILE)
                self._files.update((m.name, m) for m in files if m.name in wanted)

    def file(self, member: TarMember) -> TarMember | None:
        """Return the file that a member is or leads to. It is called for each member, in order."""
        if member.kind is TarKind.FILE:
            if member.name in self._files:
                self._before[member.name] = member
            return member
        if member.kind not in _LINKS:
            return None
        if member.kind is TarKind.HARD_LINK and member.target in self._before:
            return self._before[member.target]
        name = member.target
        for _ in range(DEEPEST_LINK):
            if name in self._files:
                return self._files[name]
            name = self._targets.get(name, b"")
        return None


class _Tars:
    """Collects files into tars. The files of one example (1.jpg, 1.json) stay in one tar."""

    def __init__(self, stem: str, tar_bytes: int, create: Create) -> None:
        self._stem, self._tar_bytes, self._create = stem, tar_bytes, create
        self._out, self._key = io.BytesIO(), b""
        self.files = self.number = 0

    def add(self, name: bytes, data: bytes) -> None:
        folder, _, base = name.rpartition(b"/")
        key = folder + b"/" + base.partition(b".")[0]
        if self._out.tell() and key != self._key:
            if self._out.tell() + len(data) > self._tar_bytes:
                self.end()
        self._key = key
        self._out.write(header_of(name, len(data)) + data + padding(len(data)))
        self.files += 1

    def end(self) -> None:
        """Write the files since the last tar."""
        if not self._out.tell():
            return
        self._out.write(end_of(self._out.tell()))
        self._create(f"{self._stem}-{self.number:04d}.tar", self._out.getvalue())
        self.number, self._out = self.number + 1, io.BytesIO()
