"""Flags of the jobs that read results: compact, report, export. As in `pipeline.config`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from pipeline.config.checks import check_above_zero, check_not_negative
from pipeline.errors import UserError
from pipeline.runtime.flags import Folder, Group, Groups, Uri


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig:
    """Flags of `jobs/evaluate.py`."""

    scored: Uri
    """The --output of a scoring run (or its scored/<run_id> folder)."""
    data: Uri
    """Labelled images, as for `jobs/train.py`."""
    split: str = "test"
    """The images to evaluate on."""
    classes: tuple[str, ...] = ()
    """Class names. By default those the detector was trained on."""
    run_id: str | None = None
    """The run to evaluate, where --scored holds several."""
    output: Uri | None = None
    """Where metrics.json and pr_curves.png are written. By default evaluation/<run_id>/ under --scored."""
    limit: int | None = None
    """Evaluate only the first N images of the split."""
    dry_run: bool = False
    """Print counts; write nothing."""

    GROUPS: ClassVar[Groups] = (
        Group(title="Data", common=("split", "classes", "limit")),
        Group(title="Run", common=("run_id", "output", "dry_run")),
    )

    def __post_init__(self) -> None:
        check_above_zero(self, "limit")


@dataclass(frozen=True, kw_only=True, slots=True)
class CompactConfig:
    """Flags of `jobs/compact.py`."""

    scored: Uri
    """The --output of a scoring run (or its scored/<run_id> folder)."""
    output: Uri
    """Where detections/<run_id>.parquet is written; usually the same as --scored."""
    run_id: str | None = None
    """Make the table of this run only. By default every run gets one."""
    memory_gib: float = 2.0
    """Memory for sorting, in GiB, beside the 400 MB of the job itself; the rest goes to --temp-folder."""
    temp_folder: Folder | None = None
    """A folder of this machine with room to sort, about 100 bytes per box. By default the system's."""
    dry_run: bool = False
    """Print which tables would be made of which shards; write nothing."""

    GROUPS: ClassVar[Groups] = (
        Group(title="Run", common=("run_id", "dry_run"), more=("memory_gib", "temp_folder")),
    )

    def __post_init__(self) -> None:
        check_above_zero(self, "memory_gib")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportConfig:
    """Flags of `jobs/report.py`."""

    scored: Uri
    """The --output of a scoring run (or its scored/<run_id> folder)."""
    output: Uri
    """The page, if it ends in .html; else report/<run_id>.html is written below it."""
    run_id: str | None = None
    """The run to read, where --scored holds several."""
    data: Uri | None = None
    """Labelled images, as for `jobs/evaluate.py`: the page then shows accuracy and its curves too."""
    split: str = "test"
    """The labelled images to measure accuracy on."""
    gallery: int = 96
    """Number of pictures in the page; with 0 no image is read."""
    thumbnail: int = 400
    """Longer side of a picture, in pixels."""
    gallery_mib: float = 8.0
    """Largest size of all pictures together, in MiB; those that do not fit are left out."""
    memory_gib: float = 2.0
    """Memory for counting, in GiB, beside the 400 MB of the job itself; the rest goes to --temp-folder."""
    temp_folder: Folder | None = None
    """A folder of this machine with room for the run, about 100 bytes per box. By default the system's."""
    dry_run: bool = False
    """Print counts; write nothing, and read no image."""

    GROUPS: ClassVar[Groups] = (
        Group(title="Accuracy", common=("data", "split")),
        Group(title="Pictures", common=("gallery",), more=("thumbnail", "gallery_mib")),
        Group(title="Run", common=("run_id", "dry_run"), more=("memory_gib", "temp_folder")),
    )

    def __post_init__(self) -> None:
        check_above_zero(self, "thumbnail", "gallery_mib", "memory_gib")
        check_not_negative(self, "gallery")


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportConfig:
    """Flags of `jobs/export.py`."""

    scored: Uri
    """The --output of a scoring run (or its scored/<run_id> folder)."""
    output: Uri
    """The folder of the files; those of the same name are replaced. For delta the table's folder, for iceberg
    NAMESPACE.TABLE."""
    format: Literal["coco", "fiftyone", "labelstudio", "iceberg", "delta"]
    """The tool that will read the boxes."""
    run_id: str | None = None
    """The run to read, where --scored holds several."""
    min_score: float = 0.0
    """Lowest score written. Images without such boxes are written all the same."""
    limit: int | None = None
    """Write only the first N images, in order of their URI."""
    image_root: Uri | None = None
    """Where the other tool finds the images: replaces the deepest folder that holds them all."""
    ids: Uri | None = None
    """For coco: an annotation file whose image and category ids are used; only its images are written."""
    memory_gib: float = 2.0
    """Memory for tables, in GiB, beside the 400 MB of the job itself; the rest goes to --temp-folder."""
    temp_folder: Folder | None = None
    """A folder of this machine with room for run and files. By default the system's."""
    dry_run: bool = False
    """Print counts; write nothing."""
    allow_open_cluster: bool = False
    """For iceberg and delta: join a Ray cluster of other machines that asks for no token."""

    GROUPS: ClassVar[Groups] = (
        Group(title="Boxes", common=("min_score", "limit", "image_root", "ids")),
        Group(
            title="Run",
            common=("run_id", "dry_run"),
            more=("memory_gib", "temp_folder", "allow_open_cluster"),
        ),
    )

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
