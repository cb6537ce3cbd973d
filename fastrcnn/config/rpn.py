"""The numbers of a region proposal network. TV = torchvision's detection models."""

from __future__ import annotations

from dataclasses import dataclass

from fastrcnn.config.ranges import Count, FieldError, Length, PositiveShare, Share, check_fields

SIDES = 5
"""Approximate number of anchor sides on all feature maps together (TV faster_rcnn.py: 32, 64, 128, 256,
512)."""
STANDARD_RATIOS = (0.5, 1.0, 2.0)
"""height / width (TV faster_rcnn.py)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RPNConfig:
    """A region proposal network, trained together with the heads (Ren et al. 2015). The defaults are TV's."""

    sides: tuple[tuple[Length, ...], ...] = ()
    """Sides of the anchors, sqrt(area) in pixels of the model frame, for each feature map, finest first. Each
    map has the same number of sides. Empty: `standard_sides`; a training run fits them to its boxes
    (`fastrcnn.anchors`)."""
    ratios: tuple[Length, ...] = ()
    """height / width of the anchors, on every map. Empty: `STANDARD_RATIOS`; a training run fits them too."""
    extra_level: bool = False
    """Anchors also on a map of twice the largest stride: every second cell of the coarsest map (Lin et al.
    2017, P6; TV LastLevelMaxPool). It suits objects that fill the image."""
    torchvision_anchors: bool = False
    """Anchors exactly as TV's published detectors have them: rounded to whole pixels, also on the cells of
    the padding, and spaced by the padded size divided by the number of cells (TV anchor_utils.py)."""
    convs: Count = 1
    """3 x 3 convolutions before the two outputs of the RPN. TV's fasterrcnn_resnet50_fpn_v2 has 2."""
    fg_iou: Share = 0.7
    """An anchor is foreground from this IoU with an object (TV). An object's nearest anchor is always
    foreground."""
    bg_iou: Share = 0.3
    """An anchor is background below this IoU with every object (TV). Anchors between
    `bg_iou` and `fg_iou` add no loss."""
    anchors_per_image: Count = 256
    """Anchors sampled in each image for the losses, which are divided by this number (TV)."""
    fg_fraction: PositiveShare = 0.5
    """Largest share of foreground in the sampled anchors (TV)."""
    pre_nms_train: Count = 2000
    """In training, anchors of each feature map that go into suppression, best first (TV)."""
    pre_nms_test: Count = 1000
    """At test, anchors of each feature map that go into suppression, best first (TV)."""
    score_threshold: Share = 0.0
    """At test, a proposal needs this objectness, from 0 to 1 (TV: 0; its mobile detectors .05)."""
    nms: PositiveShare = 0.7
    """A proposal is suppressed if its IoU with a better one of the same map is above this (TV)."""
    max_proposals_train: Count = 2000
    """In training, proposals of an image that go to the heads, best first (TV)."""
    max_proposals_test: Count = 1000
    """At test, proposals of an image that go to the heads, best first (TV)."""

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

    def map_strides(self, strides: tuple[int, ...]) -> tuple[int, ...]:
        """Give the strides of the maps that have anchors, for those of the backbone's maps."""
        return (*strides, 2 * strides[-1]) if self.extra_level else strides


def sides_per_level(num_levels: int) -> int:
    """Give the number of anchor sides on each of `num_levels` feature maps: 5 on one map, 2 on each of three,
    1 on each of four."""
    return max(1, round(SIDES / num_levels))


def standard_sides(strides: tuple[int, ...]) -> tuple[tuple[float, ...], ...]:
    """Give anchor sides that are fitted to no data.

    They are 32 to 512 on a single map of stride 16 (TV), and 8 strides and more on each map of a pyramid (Lin
    et al. 2017, section 4.1).
    """
    if len(strides) == 1:
        return (tuple(2.0 * strides[0] * 2**k for k in range(SIDES)),)
    count = sides_per_level(len(strides))
    return tuple(tuple(8.0 * stride * 2 ** (k / count) for k in range(count)) for stride in strides)
