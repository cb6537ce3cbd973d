"""Flags of the jobs that read results: evaluate, compact, report, export."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from pipeline.config.checks import (
    MOST_GIB,
    OnBadLabel,
    as_tuple,
    check_above_zero,
    check_labels,
    check_memory,
    check_not_negative,
    check_renames,
    label_sets,
    require,
)
from pipeline.errors import UserError
from pipeline.runtime.flags import Folder, Group, Groups, Uri


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig:
    """Flags of `jobs/evaluate.py`."""

    scored: Uri
    """The --output of a scoring job, or its scored/<run_id> folder."""
    data: tuple[Uri, ...] = ()
    """Labelled images, as for `jobs/train.py`; several folders are joined. Required, unless --annotations is
    given."""
    annotations: Uri | None = None
    """File or folder of labels that lie apart from their images. The images are in --images-at, else in
    --data."""
    images_at: Uri | None = None
    """Folder of the images, if --data or --annotations holds only their labels."""
    split: str = "test"
    """Split to evaluate on, or the URI of a split file, such as splits/test.txt in the output of a
    training."""
    classes: tuple[str, ...] = ()
    """Class names. Default: those of the detector."""
    rename: tuple[str, ...] = ()
    """Other names for the classes of the labels, as OLD=NEW, as in the training."""
    on_bad_label: OnBadLabel = "refuse"
    """What to do with labels that cannot be right: `refuse` stops and lists them; `skip` makes their boxes
    ignored regions; `clip` cuts boxes at the edge of the image, and skips what cannot be cut."""
    run_id: str | None = None
    """Scoring run to evaluate. Needed if --scored holds several."""
    output: Uri | None = None
    """Folder for metrics.json, pr_curves.png, operating_points.parquet, confusion.parquet and
    matches.parquet. Default: evaluation/<run_id>/ in --scored."""
    at_precision: float | None = None
    """Also find the score from which each class has at least this precision, with as much recall as
    possible."""
    at_recall: float | None = None
    """Also find the score from which each class has at least this recall, with as much precision as
    possible."""
    suspects: Uri | None = None
    """The --output of `jobs/suspects.py` for these labels. The job then also says what average precision
    would be if the first suspects were right: a guess, beside the measured one."""
    first: int = 100
    """With --suspects: the number of suspects that are taken for right."""
    limit: int | None = None
    """Evaluate only the first N images of the split."""
    dry_run: bool = False
    """Print counts, write nothing."""

    GROUPS: ClassVar[Groups] = (
        Group(
            title="Data",
            common=("data", "split", "classes", "limit"),
            more=("annotations", "images_at", "rename", "on_bad_label"),
        ),
        Group(
            title="Run",
            common=("run_id", "output", "dry_run"),
            more=("at_precision", "at_recall", "suspects", "first"),
        ),
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", as_tuple(self.data))
        check_above_zero(self, "limit", "first")
        for flag, share in (
            ("--at-precision", self.at_precision),
            ("--at-recall", self.at_recall),
        ):
            require(
                share is None or 0 < share <= 1,
                f"{flag} {share}",
                "expected a share above 0 and up to 1",
                "Give another number.",
            )
        check_labels(self)
        check_renames(self.rename)

    @property
    def label_sets(self) -> tuple[tuple[str, str | None], ...]:
        """Where each data set has its labels, and the folder of its images if they lie apart."""
        return label_sets(self)


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
    compare: str | None = None
    """Another run of --scored, to compare with: counts, agreement, and pictures where the two differ."""
    data: tuple[Uri, ...] = ()
    """Labelled images, as for `jobs/evaluate.py`. With them the page shows accuracy, what is right, wrong and
    missed, and the labelled boxes. Objects of classes that the detector does not have are left out."""
    annotations: Uri | None = None
    """File or folder of labels that lie apart from their images. The images are in --images-at, else in
    --data."""
    images_at: Uri | None = None
    """Folder of the images, if --data or --annotations holds only their labels."""
    split: str = "test"
    """Split to measure accuracy on, or the URI of a split file."""
    rename: tuple[str, ...] = ()
    """Other names for the classes of the labels, as OLD=NEW, as in the training."""
    on_bad_label: OnBadLabel = "refuse"
    """What to do with labels that cannot be right, as in `jobs/evaluate.py`."""
    gallery: int = 96
    """Number of pictures in the page. With 0, no image is read."""
    thumbnail: int = 400
    """Longer side of a picture, in pixels."""
    crops: int = 4
    """Number of boxes of a picture that can be seen at original size: mistakes first, then the highest
    scores."""
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
        Group(
            title="Accuracy",
            common=("data", "split"),
            more=("annotations", "images_at", "rename", "on_bad_label"),
        ),
        Group(title="Pictures", common=("gallery",), more=("thumbnail", "crops", "gallery_mib")),
        Group(
            title="Run", common=("run_id", "compare", "dry_run"), more=("memory_gib", "temp_folder")
        ),
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", as_tuple(self.data))
        if self.has_labels:
            check_labels(self)
        check_renames(self.rename)
        check_above_zero(self, "thumbnail")
        check_above_zero(self, "gallery_mib", most=MOST_GIB)
        check_memory(self)
        check_not_negative(self, "gallery")
        check_not_negative(self, "crops")
        if self.compare is not None and self.compare == self.run_id:
            raise UserError(
                f"--compare {self.compare}",
                "is the run of --run-id itself",
                "Give the run_id of another run of --scored.",
            )

    @property
    def has_labels(self) -> bool:
        """Whether the flags name labels."""
        return bool(self.data or self.annotations or self.images_at)


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportConfig:
    """Flags of `jobs/export.py`."""

    scored: Uri
    """The --output of a scoring job, or its scored/<run_id> folder."""
    output: Uri
    """Folder for the files; files of the same name are replaced. For delta: the folder of the table. For
    iceberg: NAMESPACE.TABLE."""
    format: Literal[
        "coco", "fiftyone", "labelstudio", "yolo", "voc", "coco-dataset", "iceberg", "delta"
    ]
    """Format to write: the tool that will read the boxes, or the layout of a labelled data set."""
    run_id: str | None = None
    """Scoring run to read. Needed if --scored holds several."""
    min_score: float = 0.0
    """Minimum score of a written box. Images without boxes are written too."""
    limit: int | None = None
    """Write only the first N images, in URI order."""
    image_root: Uri | None = None
    """Path or URL of the images in the other tool. It replaces the deepest folder that holds all images."""
    copy_images: bool = False
    """For yolo, voc and coco-dataset: copy the images into the data set too. Default: labels only, which
    `jobs/train.py` reads with --images-at."""
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
        Group(title="Boxes", common=("min_score", "limit", "image_root", "copy_images", "ids")),
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
        data_set = self.format in ("yolo", "voc", "coco-dataset")
        for flag, allowed in (("image_root", not data_set), ("copy_images", data_set)):
            if getattr(self, flag) and not allowed:
                raise UserError(
                    f"--{flag.replace('_', '-')}",
                    f"has no effect with --format {self.format}",
                    "Leave it out.",
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
