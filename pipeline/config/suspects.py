"""Flags of `jobs/suspects.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pipeline.config.checks import (
    MOST_GIB,
    OnBadLabel,
    as_tuple,
    check_above_zero,
    check_labels,
    check_not_negative,
    check_renames,
    image_roots,
    label_sets,
    require,
)
from pipeline.runtime.flags import Group, Groups, Uri


@dataclass(frozen=True, kw_only=True, slots=True)
class SuspectsConfig:
    """Flags of `jobs/suspects.py`."""

    scored: tuple[Uri, ...]
    """The --output of each scoring job, one for each fold; or one folder with the runs of all folds."""
    output: Uri
    """Folder for suspects.parquet, suspects.html and tasks/."""
    data: tuple[Uri, ...] = ()
    """Labelled images, as for `jobs/train.py`; several folders are joined. Required, unless --annotations is
    given."""
    annotations: Uri | None = None
    """File or folder of labels that lie apart from their images. The images are in --images-at, else in
    --data."""
    images_at: Uri | None = None
    """Folder of the images, if --data or --annotations holds only their labels."""
    split: str = "train"
    """Split whose labels are examined, or the URI of a split file. It is the --split of the trainings."""
    rename: tuple[str, ...] = ()
    """Other names for the classes of the labels, as OLD=NEW, as in the training."""
    on_bad_label: OnBadLabel = "refuse"
    """What to do with labels that cannot be right: `refuse` stops and lists them; `skip` makes their boxes
    ignored regions; `clip` cuts boxes at the edge of the image, and skips what cannot be cut."""
    run_id: tuple[str, ...] = ()
    """Scoring runs to use. Default: all in --scored."""
    min_score: float = 0.1
    """Leave out suspects with a lower score. Scores rank: those with low scores are mostly right labels."""
    cleanlab: bool = False
    """Also give the scores of cleanlab (ObjectLab) in the column `cleanlab`. Needs the extra `cleanlab`."""
    judged: Uri | None = None
    """File that the page saved, with what you judged. The job then writes the corrected labels of the split
    to corrected/ in --output."""
    pictures: int = 200
    """Number of suspects on the page, the most suspicious first."""
    thumbnail: int = 240
    """Longer side of a picture, in pixels."""
    page_mib: float = 24.0
    """Maximum size of all pictures together, in MiB. Pictures that do not fit are left out."""
    image_root: Uri | None = None
    """Path or URL of the images in the labelling tools. It replaces the deepest folder that holds all
    images."""
    dry_run: bool = False
    """Print the numbers of suspects; write nothing and read no image."""

    GROUPS: ClassVar[Groups] = (
        Group(
            title="Data",
            common=("data", "split"),
            more=("annotations", "images_at", "rename", "on_bad_label"),
        ),
        Group(title="Suspects", common=("judged", "min_score"), more=("cleanlab",)),
        Group(
            title="Page and tasks",
            common=("pictures", "image_root"),
            more=("thumbnail", "page_mib"),
        ),
        Group(title="Run", common=("run_id", "dry_run")),
    )

    def __post_init__(self) -> None:
        for name in ("scored", "data", "run_id"):
            object.__setattr__(self, name, as_tuple(getattr(self, name)))
        require(
            bool(self.scored),
            "--scored",
            "is required and missing",
            "Give the --output of jobs/score_bucket.py for each fold.",
        )
        require(
            0 <= self.min_score <= 1,
            f"--min-score {self.min_score}",
            "expected a score from 0 to 1",
            "Give another number.",
        )
        check_not_negative(self, "pictures", most=10_000)
        check_above_zero(self, "thumbnail", most=4000)
        check_above_zero(self, "page_mib", most=MOST_GIB)
        check_labels(self)
        check_renames(self.rename)

    @property
    def label_sets(self) -> tuple[tuple[str, str | None], ...]:
        """Where each data set has its labels, and the folder of its images if they lie apart."""
        return label_sets(self)

    @property
    def image_roots(self) -> tuple[str, ...]:
        """The folders below which the images lie: one for each data set."""
        return image_roots(self)
