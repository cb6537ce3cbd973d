"""How candidate boxes are made: the proposers' settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from fastrcnn.config.growth import as_tuples, filled, hashed
from fastrcnn.config.ranges import Count, CountOrZero, FieldError, Length, Seed, check_fields


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectiveSearchMode:
    """What a mode of our selective search is made of."""

    max_side: int
    """Longer images are shrunk to it first, pixels."""
    k: tuple[int, ...]
    """Scales of the segmentation, grey levels: larger ones give larger regions."""
    strategies: tuple[str, ...]
    """One grouping each, by the sum of these similarities: Colour, Texture, Size, Fill (Uijlings et al. 2013,
    section 3.2)."""
    min_region: int
    """Smallest region, pixels of the shrunk image."""
    max_regions: int
    """Regions of one segmentation: what grouping costs grows faster than they do."""
    min_size: int
    """Shortest side of a proposal, pixels of the image."""


SELECTIVE_SEARCH_MODES = {
    "fast": SelectiveSearchMode(
        max_side=320,
        k=(60,),
        strategies=("CTSF", "SF", "F"),
        min_region=20,
        max_regions=384,
        min_size=20,
    ),
    "small": SelectiveSearchMode(
        max_side=640,
        k=(60,),
        strategies=("CTSF", "F"),
        min_region=20,
        max_regions=1024,
        min_size=8,
    ),
    # opencv_contrib: switchToSelectiveSearchFast of selectivesearchsegmentation.cpp; graphsegmentation.cpp.
    "exact": SelectiveSearchMode(
        max_side=2048,
        k=(150, 300, 450),
        strategies=("CTSF", "TSF"),
        min_region=100,
        max_regions=4096,
        min_size=20,
    ),
}


LEARNED = "rpn"
"""The proposer that is part of the model, `FastRCNNConfig.rpn`: no function of an image alone."""
PROPOSAL_MODES = {
    "selective_search": tuple(SELECTIVE_SEARCH_MODES),
    "opencv": ("fast", "quality"),
    "grid": ("fast", "unfitted"),
}
"""The modes of the proposers that have any. A `grid` is fitted to the training boxes unless `unfitted`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProposalConfig:
    """How candidate boxes are made. The checkpoint stores it, and scoring makes the same boxes."""

    name: str = "selective_search"
    """`selective_search` (ours), `opencv` (its selective search), `grid`, `table` (precomputed), or `rpn`
    (the model's)."""
    mode: str = "fast"
    """`selective_search`: `fast`, `small` or `exact`. `opencv`: `fast` or `quality`. `grid`: `fast` or
    `unfitted`."""
    max_boxes: Count = 2000
    """Boxes kept in each image, best first (paper, section 4: about 2000)."""
    min_size: CountOrZero | None = None
    """Shortest side of a proposal, pixels of the image. Default: the mode's, else 20
    (selective_search_boxes.m of R-CNN)."""
    seed: Seed = 0
    """Seed of the random part of the order."""
    max_side: Count | None = None
    """`selective_search`: longer images are shrunk to it first, pixels. Default: the mode's."""
    k: tuple[Count, ...] | None = None
    """`selective_search`: scales of the segmentation, grey levels. Default: the mode's."""
    strategies: tuple[str, ...] | None = None
    """`selective_search`: one grouping each, see `SelectiveSearchMode`. Default: the mode's."""
    shapes: tuple[tuple[Length, Length], ...] | None = None
    """Fitted `grid`: (height, width) of its boxes, as shares of the image's shorter side
    (`fastrcnn.anchors`)."""

    def __post_init__(self) -> None:
        """Fill in what the mode says: a checkpoint keeps it even if a later version's modes are others."""
        missing: dict[str, Any] = {"min_size": 20}
        if self.name == "selective_search":
            if self.mode not in SELECTIVE_SEARCH_MODES:
                modes = ", ".join(SELECTIVE_SEARCH_MODES)
                raise FieldError({"mode": self.mode}, f"{modes}, the modes of selective_search")
            mode = SELECTIVE_SEARCH_MODES[self.mode]
            missing = {n: getattr(mode, n) for n in ("min_size", "max_side", "k", "strategies")}
        for name, value in missing.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        for name in ("k", "strategies", "shapes"):  # JSON has lists
            object.__setattr__(self, name, as_tuples(getattr(self, name)))
        check_fields(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `dataclasses.asdict` after a round through JSON. TypeError: unknown names."""
        return cls(**filled(cls, values))

    def settings(self) -> dict[str, Any]:
        """What is hashed into the names of runs and caches."""
        settings = hashed(type(self), asdict(self))
        if not self.shapes:
            del settings["shapes"]  # the one field that had come later before `FIRST` was written
        return settings
