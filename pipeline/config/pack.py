"""Flags of `jobs/pack.py`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from pipeline.config.checks import check_above_zero, check_share, check_uris, require
from pipeline.runtime.flags import Group, Groups, Uri

_UNITS = {
    "": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
}
LEAST_BYTES, MOST_BYTES = 1_000_000, 4_000_000_000
"""S3 takes at most 5 GB in one request, and only one request is exclusive."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PackConfig:
    """Flags of `jobs/pack.py`."""

    images: Uri
    """Images to pack, as for the job score: a prefix, a glob in quotes, archives, or a list of URIs. Or tars
    that are compressed as a whole (.tar.gz, .tar.zst): all of their files are packed."""
    output: Uri
    """Folder for tars/ and plans/. To continue, run again with the same folder."""
    size: str = "512MB"
    """Size of a tar: the sum of its files, in bytes or with KB, MB, GB, KiB, MiB, GiB. A larger image is one
    tar."""
    include: tuple[str, ...] = ()
    """Pack only objects that match one of these globs, with any suffix. Put globs in quotes."""
    exclude: tuple[str, ...] = ()
    """Leave out objects that match one of these globs."""
    archives: bool = False
    """Open the archives below --images too."""
    max_bytes: int = 100_000_000
    """Images with more bytes cannot be packed."""
    max_failures: float = 0.0
    """Maximum share of images that cannot be read. They are left out, and listed in left_out/. Above it,
    their tars are not written, and the job stops with exit code 1."""
    dry_run: bool = False
    """Print the numbers of images, bytes and tars, write nothing."""

    GROUPS: ClassVar[Groups] = (
        Group(
            title="Images",
            common=("include", "exclude", "archives"),
            more=("max_bytes", "max_failures"),
        ),
        Group(title="Run", common=("size", "dry_run")),
    )

    def __post_init__(self) -> None:
        check_uris(self, "images", "output")
        check_above_zero(self, "max_bytes", most=MOST_BYTES)
        check_share(self.max_failures)
        require(
            LEAST_BYTES <= self.tar_bytes <= MOST_BYTES,
            f"--size {self.size}",
            "expected 1MB to 4GB, such as 512MB",
            "Give another size.",
        )

    @property
    def tar_bytes(self) -> int:
        """--size in bytes; 0 if it is no size."""
        match = re.fullmatch(r"(\d{1,12}) *([A-Za-z]*)", self.size.strip())
        unit = _UNITS.get(match[2].upper()) if match else None
        return int(match[1]) * unit if match and unit else 0
