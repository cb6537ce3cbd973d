"""Flags of the jobs that count with intervals: sample and estimate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pipeline.config.checks import (
    as_tuple,
    check_above_zero,
    check_memory,
    check_not_negative,
    check_seeds,
    require,
)
from pipeline.errors import UserError
from pipeline.runtime.flags import Folder, Group, Groups, Uri

MOST_DRAWS = 10_000_000
"""The largest budget: all draws are in memory."""
DEEPEST = 100
"""The largest depth of prefixes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleConfig:
    """Flags of `jobs/sample.py`."""

    scored: Uri
    """The --output of a scoring job, or its scored/<run_id> folder."""
    output: Uri
    """Folder for sample.parquet and tasks/. Give each round another folder."""
    budget: int
    """Number of draws. An image may be drawn several times; it is counted once. Fewer than 100 draws give
    intervals that are too narrow too often."""
    seed: int
    """Seed of the draws. Give each round another seed."""
    run_id: str | None = None
    """Scoring run to draw from. Needed if --scored holds several."""
    by: int = 0
    """Folders that make a prefix, below the folder of all images. Each prefix gets at least two draws. With
    0, all images are one stratum."""
    classes: tuple[str, ...] = ()
    """Classes to count. Default: all classes of the detector. Fewer classes need fewer draws."""
    floor: float | None = None
    """Expected objects of a class in an image where nothing was seen. Default: half of the class's mean in
    the prefix. Give more if the detector misses much."""
    image_root: Uri | None = None
    """Path or URL of the images in the labelling tools. It replaces the deepest folder that holds all
    images."""
    memory_gib: float = 2.0
    """Memory for tables, in GiB. The job itself needs 400 MB more. What does not fit goes to
    --temp-folder."""
    temp_folder: Folder | None = None
    """Local folder for temporary files, about 100 bytes per image. Default: the system's."""
    dry_run: bool = False
    """Print the draws of each prefix, write nothing."""

    GROUPS: ClassVar[Groups] = (
        Group(title="Draws", common=("by", "classes"), more=("floor",)),
        Group(title="Tasks", common=("image_root",)),
        Group(title="Run", common=("run_id", "dry_run"), more=("memory_gib", "temp_folder")),
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", as_tuple(self.classes))
        check_above_zero(self, "budget", most=MOST_DRAWS)
        check_above_zero(self, "floor", most=1e6)
        check_not_negative(self, "by", most=DEEPEST)
        check_seeds("--seed", self.seed)
        check_memory(self)
        twice = [name for name in self.classes if self.classes.count(name) > 1]
        if twice:
            raise UserError(
                f"--classes {' '.join(self.classes)}",
                f"names {twice[0]!r} twice",
                "Give each class once.",
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class EstimateConfig:
    """Flags of `jobs/estimate.py`."""

    scored: Uri
    """The --output of the scoring job that the sample was drawn from."""
    sample: tuple[Uri, ...]
    """The --output of `jobs/sample.py`, or sample.parquet in it. Several rounds are combined."""
    counts: tuple[Uri, ...]
    """What a person counted in the drawn images: a table (.csv, .parquet) with the columns image_uri, label
    and count, or a folder of labelled images, as for `jobs/train.py`. Several are joined."""
    output: Uri
    """Folder for estimates.parquet, estimates.json and estimates.html."""
    by: int | None = None
    """Folders that make a prefix, below the folder of all images. Default: as in the sample."""
    width: float | None = None
    """Wished width of the intervals, as a share of the total: .2 for 10% to each side. The output then says
    how many draws more that takes."""
    images_at: Uri | None = None
    """Folder of the images, if a folder in --counts holds only their labels."""
    memory_gib: float = 2.0
    """Memory for tables, in GiB. The job itself needs 400 MB more. What does not fit goes to
    --temp-folder."""
    temp_folder: Folder | None = None
    """Local folder for temporary files, about 100 bytes per image. Default: the system's."""
    dry_run: bool = False
    """Print the totals, write nothing."""

    GROUPS: ClassVar[Groups] = (
        Group(title="Counts", common=("by", "width"), more=("images_at",)),
        Group(title="Run", common=("dry_run",), more=("memory_gib", "temp_folder")),
    )

    def __post_init__(self) -> None:
        for name in ("sample", "counts"):
            object.__setattr__(self, name, as_tuple(getattr(self, name)))
            require(
                bool(getattr(self, name)),
                f"--{name}",
                "is required and missing",
                "Give the --output of jobs/sample.py."
                if name == "sample"
                else "Give a table of counts, or a folder of labelled images.",
            )
        check_not_negative(self, "by", most=DEEPEST)
        check_above_zero(self, "width", most=1000)
        check_memory(self)
