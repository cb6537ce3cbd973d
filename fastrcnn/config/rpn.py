"""The numbers of a region proposal network. TV = torchvision's detection models."""

from __future__ import annotations

from dataclasses import dataclass

from fastrcnn.config.ranges import Count, FieldError, Length, PositiveShare, Share, check_fields

SIDES = 5
"""Anchor sides over all feature maps, about (TV faster_rcnn.py: 32, 64, 128, 256, 512)."""
STANDARD_RATIOS = (0.5, 1.0, 2.0)
"""height / width (TV faster_rcnn.py)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RPNConfig:
    """Proposals that the model makes itself, learnt with its heads (Ren et al. 2015). The defaults are
    TV's."""

    sides: tuple[tuple[Length, ...], ...] = ()
    """Sides of the anchors, sqrt(area) in pixels of the model frame: for each feature map, finest first, as
    many as for the others. Empty: `standard_sides`; a training run fits them to its boxes
    (`fastrcnn.anchors`)."""
    ratios: tuple[Length, ...] = ()
    """height / width of the anchors, on every map. Empty: `STANDARD_RATIOS`, or fitted likewise."""
    fg_iou: Share = 0.7
    """An anchor is foreground from this IoU with an object (TV). An object's nearest anchor is foreground in
    any case."""
    bg_iou: Share = 0.3
    """An anchor is background below this IoU with every object (TV). Those between the two carry no loss."""
    anchors_per_image: Count = 256
    """Anchors sampled in each image for the losses, which are divided by it (TV)."""
    fg_fraction: PositiveShare = 0.5
    """Largest share of foreground in the sampled anchors (TV)."""
    pre_nms_train: Count = 2000
    """In training, the best of each feature map that go into suppression (TV)."""
    pre_nms_test: Count = 1000
    """At test, the best of each feature map that go into suppression (TV)."""
    nms: PositiveShare = 0.7
    """Suppresses proposals whose IoU with a better one is above it, map by map (TV)."""
    max_proposals_train: Count = 2000
    """In training, the best of an image that go to the heads (TV)."""
    max_proposals_test: Count = 1000
    """At test, the best of an image that go to the heads (TV)."""

    def __post_init__(self) -> None:
        check_fields(self, "rpn.")
        if self.bg_iou > self.fg_iou:
            ious = {"rpn.bg_iou": self.bg_iou, "rpn.fg_iou": self.fg_iou}
            raise FieldError(ious, "bg_iou up to fg_iou")
        if not all(self.sides):
            raise FieldError({"rpn.sides": self.sides}, "at least one side for each feature map")
        if len({len(sides) for sides in self.sides}) > 1:
            raise FieldError(
                {"rpn.sides": self.sides}, "the same number of sides for each feature map"
            )


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
