"""The proposers: one spec each. Everything that depends on a proposer's name is in its spec.

A new proposer is one file with its function (`fastrcnn.proposals` gives the signature) and one entry in
`PROPOSER_SPECS`. Nothing here imports the functions: a spec names its function as text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectiveSearchMode:
    """The numbers of one mode of our selective search."""

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
    """Largest number of regions of one segmentation. The time of grouping grows faster than their number."""
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


@dataclass(frozen=True, kw_only=True, slots=True)
class ProposerSpec:
    """Everything that depends on a proposer's name: the source of its boxes, its modes and its settings."""

    function: str | None = None
    """``module:name`` of the function that makes boxes from an image; None: boxes come from elsewhere."""
    learned: bool = False
    """The model makes the boxes by its RPN, `FastRCNNConfig.rpn`."""
    precomputed: bool = False
    """The boxes of each image are given, as a table of proposals."""
    modes: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"fast": {}})
    """Mode -> the fields of `ProposalConfig` that it fills in where they are None."""
    settings: tuple[str, ...] = ()
    """Fields of `ProposalConfig` that the function takes besides mode, max_boxes, min_size and seed."""
    fitted_modes: tuple[str, ...] = ()
    """Modes that need the training boxes: `shapes` is fitted to them (`fastrcnn.anchors.fit_grid`)."""
    prepare: str | None = None
    """``module:name`` of a function that prepares a process, so that its first image takes no longer."""
    images_per_task: int = 64
    """Images in one task on a cluster; fewer where an image takes seconds."""


def _mode_values(mode: SelectiveSearchMode) -> dict[str, Any]:
    return {name: getattr(mode, name) for name in ("min_size", "max_side", "k", "strategies")}


LEARNED, TABLE = "rpn", "table"
"""The names of the two proposers that need more than the image."""

PROPOSER_SPECS: dict[str, ProposerSpec] = {
    "selective_search": ProposerSpec(
        function="fastrcnn.proposals.search:selective_search",
        prepare="fastrcnn.proposals.search:load",
        modes={name: _mode_values(mode) for name, mode in SELECTIVE_SEARCH_MODES.items()},
        settings=("max_side", "k", "strategies"),
    ),
    "opencv": ProposerSpec(
        function="fastrcnn.proposals.opencv:opencv_selective_search",
        modes={"fast": {}, "quality": {}},
        images_per_task=4,
    ),
    "grid": ProposerSpec(
        function="fastrcnn.proposals.dense:grid_proposals",
        modes={"fast": {}, "unfitted": {}},
        settings=("shapes",),
        fitted_modes=("fast",),
    ),
    LEARNED: ProposerSpec(learned=True),
    TABLE: ProposerSpec(precomputed=True),
}
