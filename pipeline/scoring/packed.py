"""Opens the archives that a command names: finds them, and lists their members as images."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import pyarrow as pa

from pipeline import storage
from pipeline.errors import UserError
from pipeline.storage import Access, ListOptions
from pipeline.storage.archives.index import Archive, archive_of, index_all, index_or_row
from pipeline.storage.archives.kinds import archive_kind, compressed
from pipeline.storage.archives.parquet import read_footer
from pipeline.storage.archives.problems import DamagedArchiveError
from pipeline.storage.archives.window import Window
from pipeline.storage.chains import Chain, archive_part, split_chain
from pipeline.storage.uris import absolute, compile_pattern

logger = logging.getLogger(__name__)

LeaveOut = Callable[[str, str | None, int | None], str | None]
"""Takes URI, ETag and size of an object, and returns the cause why it is left out, or None."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ArchiveOptions:
    """Which archives are opened, and how."""

    open_all: bool = False
    """Open archives below a plain prefix too (--archives)."""
    image_column: str | None = None
    """The column of Parquet files with the images. None: the only one that can hold images."""


ONLY_NAMED = ArchiveOptions()
"""Opens archives where a URI, a glob or a list entry names them."""


@dataclass
class NamedArchives:
    """The archives that a command names."""

    whole: dict[str, Archive] = field(default_factory=dict)
    """Those whose members are all wanted, by URI."""
    asked: dict[str, Archive] = field(default_factory=dict)
    """Those of which a list names members."""

    def take(self, uri: str, etag: str | None, size: int | None) -> bool:
        """Note an archive, or the archive of a member. Return whether the entry is one to be opened.

        Raises:
            UserError: a tar that is compressed as a whole.
        """
        if split_chain(uri) is not None:
            archive = archive_part(uri)
            self.asked.setdefault(archive, Archive(uri=archive, etag=None, size=None))
            return False
        kind = archive_kind(uri)
        if kind == "compressed":
            raise compressed(uri)
        if kind is not None:
            known = etag is not None and size is not None
            self.whole[uri] = Archive(uri=uri, etag=etag, size=size if known else None)
        return kind is not None

    def members(
        self, options: ArchiveOptions, access: Access, limit: int | None
    ) -> Iterator[tuple[pa.Table, bool]]:
        """Yield members (MEMBERS), and whether they are wanted or only lend their place to list entries.

        With a limit, the archives are read one after the other, so that the caller can stop.
        """
        call = partial(index_or_row, image_column=options.image_column, access=access)
        for wanted, archives in ((True, self.whole), (False, self.asked)):
            some = [archives[uri] for uri in sorted(archives) if wanted or uri not in self.whole]
            if limit is None or not wanted:
                tables = index_all(some, call)
            else:
                tables = (table for archive in some for table in call(archive))
            for table in tables:
                yield table, wanted


def chained_archives(chain: Chain, access: Access) -> tuple[NamedArchives, Callable[[str], bool]]:
    """Return the archives that a chained URI names, and whether it names a member.

    Both parts of the URI may be globs.

    Raises:
        UserError: there is no such archive, or it is of another kind.
    """
    archives = NamedArchives()
    for info in storage.list_objects(chain.archive):
        if archive_kind(info.uri) != chain.kind:
            raise UserError(
                f"{chain.kind}://{chain.name}::{info.uri}",
                f"its archive is no .{chain.kind}",
                "Name the archive's kind before ://, such as tar://a.jpg::s3://bucket/x.tar.",
            )
        archive = archive_of(info)
        archives.whole[info.uri] = archive
    matches = compile_pattern(chain.name).fullmatch

    def is_named(name: str) -> bool:
        # ``tar -c .`` writes ``./`` before all names.
        return name == chain.name or any(map(matches, (name, name.removeprefix("./"))))

    return archives, is_named


def is_packed(uri: str, lists: ListOptions, options: ArchiveOptions) -> bool:
    """Whether Parquet files hold images, and are not lists of URIs. The first file decides.

    Args:
        uri: a file, a folder or a glob whose name ends in ``.parquet``.
        lists: with --uri-column, it is a list.
        options: with --image-column, it holds images.
    """
    if not uri.lower().rstrip("/").endswith(".parquet") or lists.format != "auto":
        return False
    if options.image_column is not None or lists.uri_column is not None:
        return options.image_column is not None
    found = storage.list_objects(uri, suffixes=(".parquet",), missing_ok=True)
    first = next((i for i in found if storage.basename(i.uri)[:1] not in ("_", ".")), None)
    if first is None or first.size is None or not first.etag:
        return False
    access = replace(lists.access, any_scheme=True)
    window = Window(first.uri, size=first.size, etag=first.etag, access=access)
    try:
        with storage.driver_errors(first.uri):
            footer = read_footer(window, None)
    except DamagedArchiveError:
        return False  # as a list, it is refused with the cause
    return not footer.is_list and any(column.images for column in footer.columns)


def same_archive(images: str, uri: str) -> bool:
    """Whether an object is the archive that --images names itself, or lies in a folder ``x.parquet/``."""
    whole = absolute(images)
    return uri == whole or whole.rstrip("/").lower().endswith(".parquet")
