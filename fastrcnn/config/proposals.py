"""How candidate boxes are made: the proposer and its settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from fastrcnn.config.growth import as_tuples, fill_later_fields, values_to_hash
from fastrcnn.config.proposers import PROPOSER_SPECS, ProposerSpec
from fastrcnn.config.ranges import Count, CountOrZero, FieldError, Length, Seed, check_fields


@dataclass(frozen=True, kw_only=True, slots=True)
class ProposalConfig:
    """How candidate boxes are made. The checkpoint stores it, and scoring makes the same boxes."""

    name: str = "selective_search"
    """The proposer, a name of `PROPOSER_SPECS`."""
    mode: str = "fast"
    """One of the proposer's modes, which its spec lists."""
    max_boxes: Count = 2000
    """Boxes kept in each image, best first (paper, section 4: about 2000)."""
    min_size: CountOrZero | None = None
    """Shortest side of a proposal, pixels of the image. Default: the mode's value, else 20
    (selective_search_boxes.m of R-CNN)."""
    seed: Seed = 0
    """Seed of the random part of the order."""
    max_side: Count | None = None
    """`selective_search`: longer images are shrunk to it first, pixels. Default: the mode's
    value."""
    k: tuple[Count, ...] | None = None
    """`selective_search`: scales of the segmentation, grey levels. Default: the mode's value."""
    strategies: tuple[str, ...] | None = None
    """`selective_search`: one grouping each, see `SelectiveSearchMode`. Default: the
    mode's value."""
    shapes: tuple[tuple[Length, Length], ...] | None = None
    """Fitted `grid`: (height, width) of its boxes, as shares of the image's shorter side
    (`fastrcnn.anchors`)."""

    def __post_init__(self) -> None:
        """Fill in the mode's values: a checkpoint keeps them even if a later version changes the mode."""
        modes = self.spec.modes
        if any(modes.values()) and self.mode not in modes:
            raise FieldError({"mode": self.mode}, f"{', '.join(modes)}, the modes of {self.name}")
        for name, value in {"min_size": 20, **modes.get(self.mode, {})}.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        for name in ("k", "strategies", "shapes"):  # JSON has lists
            object.__setattr__(self, name, as_tuples(getattr(self, name)))
        check_fields(self)

    @property
    def spec(self) -> ProposerSpec:
        """The spec of the proposer. An unknown name has a spec without a function."""
        return PROPOSER_SPECS.get(self.name, ProposerSpec())

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what `dataclasses.asdict` and JSON made of a config. TypeError: unknown names."""
        return cls(**fill_later_fields(cls, values))

    def settings(self) -> dict[str, Any]:
        """Give the values that are hashed for the names of runs and caches."""
        settings = values_to_hash(type(self), asdict(self))
        if not self.shapes:
            del settings[
                "shapes"
            ]  # it was added before `FIRST` was written, so old hashes do not contain it
        return settings
