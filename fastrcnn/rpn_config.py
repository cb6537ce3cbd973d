"""The numbers of a region proposal network. TV = torchvision's detection models."""

from __future__ import annotations

from dataclasses import dataclass

SIDES = 5
"""Anchor sides over all feature maps, about (TV faster_rcnn.py: 32, 64, 128, 256, 512)."""
STANDARD_RATIOS = (0.5, 1.0, 2.0)
"""height / width (TV faster_rcnn.py)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RPNConfig:
    """Proposals of the model's own, learnt with its heads (Ren et al. 2015). The defaults are TV's."""

    sides: tuple[tuple[float, ...], ...] = ()
    """Of the anchors, sqrt(area) in pixels of the model frame: as many of each feature map, finest first.
    Empty: `standard_sides`; a training run fits them to its boxes (`fastrcnn.anchors`)."""
    ratios: tuple[float, ...] = ()
    """height / width of the anchors, on every map. Empty: `STANDARD_RATIOS`, or fitted likewise."""
    fg_iou: float = 0.7
    bg_iou: float = 0.3
    """Anchors between the two carry no loss; an object's nearest anchor is foreground in any case."""
    anchors_per_image: int = 256
    """Sampled for the losses, and what these are divided by."""
    fg_fraction: float = 0.5
    """Of them, at most."""
    pre_nms_train: int = 2000
    pre_nms_test: int = 1000
    """Best of each map that go into suppression."""
    nms: float = 0.7
    """Suppresses IoU above it, map by map."""
    max_proposals_train: int = 2000
    max_proposals_test: int = 1000
    """Best of an image that go to the heads."""

    def __post_init__(self) -> None:
        if not 0 <= self.bg_iou <= self.fg_iou <= 1:
            raise ValueError(
                f"rpn: bg_iou={self.bg_iou}, fg_iou={self.fg_iou}: need 0 <= bg <= fg <= 1"
            )
        if not 0 < self.nms <= 1:
            raise ValueError(f"rpn: nms={self.nms}: is an IoU, above 0 and at most 1")
        if not 0 < self.fg_fraction <= 1:
            raise ValueError(f"rpn: fg_fraction={self.fg_fraction}: is a share of the anchors")
        names = ("anchors_per_image", "pre_nms_train", "pre_nms_test")
        for name in (*names, "max_proposals_train", "max_proposals_test"):
            if getattr(self, name) < 1:
                raise ValueError(f"rpn: {name}={getattr(self, name)}: must be at least 1")
        if len({len(own) for own in self.sides}) > 1:
            raise ValueError(
                f"rpn: sides={self.sides}: one head serves all maps, so each has as many"
            )
        if not all(0 < value < 1e6 for value in (*sum(self.sides, ()), *self.ratios)):
            raise ValueError(f"rpn: sides={self.sides}, ratios={self.ratios}: must be above 0")


def sides_per_level(num_levels: int) -> int:
    """How many anchor sides each of `num_levels` feature maps has: 5 of one map, 2 of three, 1 of four."""
    return max(1, round(SIDES / num_levels))


def standard_sides(strides: tuple[int, ...]) -> tuple[tuple[float, ...], ...]:
    """Anchor sides that know no data: 32 to 512 on a single map of stride 16 (TV), 8 strides and up on each
    map of a pyramid (Lin et al. 2017, section 4.1)."""
    if len(strides) == 1:
        return (tuple(2.0 * strides[0] * 2**k for k in range(SIDES)),)
    count = sides_per_level(len(strides))
    return tuple(tuple(8.0 * stride * 2 ** (k / count) for k in range(count)) for stride in strides)
