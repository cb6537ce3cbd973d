"""Flags of the jobs that read results: evaluate, compact, report, export."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from pipeline.config.checks import MOST_GIB, check_above_zero, check_memory, check_not_negative
from pipeline.errors import UserError
from pipeline.runtime.flags import Folder, Group, Groups, Uri


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig:
    """Flags of `jobs/evaluate.py`."""

    scored: Uri
    """The --output of a scoring job, or its scored/<run_id> folder."""
    data: Uri
    """Labelled images, as for `jobs/train.py`."""
    split: str = "test"
    """Split to evaluate on."""
    classes: tuple[str, ...] = ()
    """Class names. Default: those of the detector."""
    run_id: str | None = None
    """Scoring run to evaluate. Needed if --scored holds several."""
    output: Uri | None = None
    """Folder for metrics.json and pr_curves.png. Default: evaluation/<run_id>/ in --scored."""
    limit: int | None = None
    """Evaluate only the first N images of the split."""
    dry_run: bool = False
    """Print counts, write nothing."""

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
    """The --output of a scoring job, or its scored/<run_id> folder."""
    output: Uri
    """Folder for detections/<run_id>.parquet; usually the same as --scored."""
    run_id: str | None = None
    """Scoring run to make the table of. Default: every run."""
    memory_gib: float = 2.0
    """Memory for sorting, in GiB. The job itself needs 400 MB more. What does not fit goes to
    --temp-folder."""
    temp_folder: Folder | None = None
    """Local folder for temporary files, about 100 bytes per box. Default: the system's."""
    dry_run: bool = False
    """Print which tables would be made from which shards, write nothing."""

    GROUPS: ClassVar[Groups] = (
        Group(title="Run", common=("run_id", "dry_run"), more=("memory_gib", "temp_folder")),
    )

    def __post_init__(self) -> None:
        check_memory(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportConfig:
    """Flags of `jobs/report.py`."""

    scored: Uri
    """The --output of a scoring job, or its scored/<run_id> folder."""
    output: Uri
    """The page, if it ends in .html. Otherwise a folder for report/<run_id>.html."""
    run_id: str | None = None
    """Scoring run to read. Needed if --scored holds several."""
    data: Uri | None = None
    """Labelled images, as for `jobs/evaluate.py`. With them the page shows accuracy too."""
    split: str = "test"
    """Split to measure accuracy on."""
    gallery: int = 96
    """Number of pictures in the page. With 0, no image is read."""
    thumbnail: int = 400
    """Longer side of a picture, in pixels."""
    gallery_mib: float = 8.0
    """Maximum size of all pictures together, in MiB. Pictures that do not fit are left out."""
    memory_gib: float = 2.0
    """Memory for counting, in GiB. The job itself needs 400 MB more. What does not fit goes to
    --temp-folder."""
    temp_folder: Folder | None = None
    """Local folder for temporary files, about 100 bytes per box. Default: the system's."""
    dry_run: bool = False
    """Print counts; write nothing and read no image."""

    GROUPS: ClassVar[Groups] = (
        Group(title="Accuracy", common=("data", "split")),
        Group(title="Pictures", common=("gallery",), more=("thumbnail", "gallery_mib")),
        Group(title="Run", common=("run_id", "dry_run"), more=("memory_gib", "temp_folder")),
    )

    def __post_init__(self) -> None:
        check_above_zero(self, "thumbnail")
        check_above_zero(self, "gallery_mib", most=MOST_GIB)
        check_memory(self)
        check_not_negative(self, "gallery")


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportConfig:
    """Flags of `jobs/export.py`."""

    scored: Uri
    """The --output of a scoring job, or its scored/<run_id> folder."""
    output: Uri
    """Folder for the files; files of the same name are replaced. For delta: the folder of the table. For
    iceberg: NAMESPACE.TABLE."""
    format: Literal["coco", "fiftyone", "labelstudio", "iceberg", "delta"]
    """Format to write: the tool that will read the boxes."""
    run_id: str | None = None
    """Scoring run to read. Needed if --scored holds several."""
    min_score: float = 0.0
    """Minimum score of a written box. Images without boxes are written too."""
    limit: int | None = None
    """Write only the first N images, in URI order."""
    image_root: Uri | None = None
    """Path or URL of the images in the other tool. It replaces the deepest folder that holds all images."""
    ids: Uri | None = None
    """For coco: annotation file that gives the image and category ids. Only its images are written."""
    memory_gib: float = 2.0
    """Memory for tables, in GiB. The job itself needs 400 MB more. What does not fit goes to
    --temp-folder."""
    temp_folder: Folder | None = None
    """Local folder for temporary files, with room for the run and the files. Default: the system's."""
    dry_run: bool = False
    """Print counts, write nothing."""
    allow_open_cluster: bool = False
    """For iceberg and delta: allow a Ray cluster on other machines without token authentication."""

    GROUPS: ClassVar[Groups] = (
        Group(title="Boxes", common=("min_score", "limit", "image_root", "ids")),
        Group(
            title="Run",
            common=("run_id", "dry_run"),
            more=("memory_gib", "temp_folder", "allow_open_cluster"),
        ),
    )

    def __post_init__(self) -> None:
        check_above_zero(self, "limit")
        check_memory(self)
        for flag in ("limit", "image_root", "dry_run"):
            if self.format in ("iceberg", "delta") and getattr(self, flag):
                name = flag.replace("_", "-")
                raise UserError(
                    f"--{name}",
                    f"has no effect with --format {self.format}",
                    "Leave it out, or filter the table in SQL.",
                )
        if not 0 <= self.min_score <= 1:
            raise UserError(
                f"--min-score {self.min_score}",
                "expected a score from 0 to 1",
                "Give another number.",
            )
        if self.ids is not None and self.format != "coco":
            raise UserError(
                f"--ids {self.ids}",
                f"has no effect with --format {self.format}",
                "Leave it out, or give --format coco.",
            )
