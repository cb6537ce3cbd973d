"""What the jobs that read results can be told: compact, report, export. As in `pipeline.config`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.config import check_above_zero, check_not_negative
from pipeline.errors import UserError


@dataclass(frozen=True, kw_only=True, slots=True)
class CompactConfig:
    """Flags of `jobs/compact.py`."""

    scored: str
    """The --output of a scoring run (or its scored/<run_id> folder)."""
    output: str
    """Where detections/<run_id>.parquet goes; mostly the same as --scored."""
    run_id: str | None = None
    """Only this run; by default each one gets its table."""
    memory_gib: float = 2.0
    """What sorting may hold in memory, beside the job's own 400 MB; the rest goes to --temp-folder."""
    temp_folder: str | None = None
    """A folder of this machine with room to sort, some 100 bytes a box; by default the system's."""
    dry_run: bool = False
    """Print what would be made of what; write nothing."""

    def __post_init__(self) -> None:
        check_above_zero(self, "memory_gib")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportConfig:
    """Flags of `jobs/report.py`."""

    scored: str
    """The --output of a scoring run (or its scored/<run_id> folder)."""
    output: str
    """The page, where it ends in .html; else report/<run_id>.html is put under it."""
    run_id: str | None = None
    """Which run, where --scored holds several."""
    data: str | None = None
    """Labelled images, as for `jobs/evaluate.py`: then the page has accuracy and its curves too."""
    split: str = "test"
    """The labelled images to measure accuracy on."""
    gallery: int = 96
    """Pictures in the page; 0: none, and no image is read."""
    thumbnail: int = 400
    """The longer side of a picture, in pixels."""
    gallery_mib: float = 8.0
    """All pictures together take no more of the page than this; those that do not fit are left out."""
    memory_gib: float = 2.0
    """What counting may hold in memory, beside the job's own 400 MB; the rest goes to --temp-folder."""
    temp_folder: str | None = None
    """A folder of this machine with room for the run, some 100 bytes a box; by default the system's."""
    dry_run: bool = False
    """Print counts; write nothing, and read no image."""

    def __post_init__(self) -> None:
        check_above_zero(self, "thumbnail", "gallery_mib", "memory_gib")
        check_not_negative(self, "gallery")


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportConfig:
    """Flags of `jobs/export.py`."""

    scored: str
    """The --output of a scoring run (or its scored/<run_id> folder)."""
    output: str
    """The folder where the files go; those of the same name are replaced. For delta the table's folder, for
    iceberg NAMESPACE.TABLE."""
    format: Literal["coco", "fiftyone", "labelstudio", "iceberg", "delta"]
    """What they are for; see `pipeline.exports` and, of the last two, `pipeline.results.lake`."""
    run_id: str | None = None
    """Which run, where --scored holds several."""
    min_score: float = 0.0
    """Boxes below are left out; images never are."""
    limit: int | None = None
    """Only the first N images, in order of their URI."""
    image_root: str | None = None
    """Where the other tool finds the images: takes the place of the deepest folder that holds them all."""
    ids: str | None = None
    """For coco: an annotation file whose image and category ids are used; its images alone are written."""
    memory_gib: float = 2.0
    """What may be held in memory, beside the job's own 400 MB; the rest goes to --temp-folder."""
    temp_folder: str | None = None
    """A folder of this machine with room for run and files; by default the system's."""
    dry_run: bool = False
    """Print counts; write nothing."""
    allow_open_cluster: bool = False
    """For iceberg and delta: join a Ray cluster of other machines that asks for no token."""

    def __post_init__(self) -> None:
        check_above_zero(self, "limit", "memory_gib")
        for flag in ("limit", "image_root", "dry_run"):
            if self.format in ("iceberg", "delta") and getattr(self, flag):
                name = flag.replace("_", "-")
                raise UserError(
                    f"--{name}",
                    f"means nothing to {self.format}",
                    "Leave it out, or filter in SQL.",
                )
        if not 0 <= self.min_score <= 1:
            raise UserError(
                f"--min-score {self.min_score}", "is no score", "Give a number from 0 to 1."
            )
        if self.ids is not None and self.format != "coco":
            raise UserError(
                f"--ids {self.ids}", f"means nothing to {self.format}", "Use it with --format coco."
            )
