"""The numbers of the model. The checkpoint stores them; scoring reads them from there.

F = rbgirshick/fast-rcnn (the reference code), TV = torchvision's detection models, D2 = detectron2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from fastrcnn.backbones import BACKBONE_SPECS
from fastrcnn.backbones.spec import Preset
from fastrcnn.config.growth import as_tuples, filled
from fastrcnn.config.ranges import (
    BelowOne,
    Count,
    CountOrZero,
    FieldError,
    Margin,
    NotNegative,
    Pixels,
    PoolSize,
    Positive,
    PositiveShare,
    RoIs,
    Share,
    Width,
    check_fields,
)
from fastrcnn.config.rpn import RPNConfig

Pooling = Literal["max", "align"]
Classifier = Literal["softmax", "svm"]
PYRAMID, PYRAMID_MAX_SIZE = (480, 576, 688, 864, 1200), 2000
"""Paper, section 4 (F experiments/cfgs/multiscale.yml)."""
BACKBONES = tuple(BACKBONE_SPECS)
"""The names of the backbones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FastRCNNConfig:
    """The model's numbers. Use `.paper` or `.modern`; the bare defaults are `paper` with VGG16."""

    num_classes: Count
    """K, without background."""
    backbone: str = "vgg16"
    """Network that makes the feature maps, one of `BACKBONES` (paper, section 4.1: S is caffenet, M vgg_m, L
    vgg16)."""
    frozen_stages: CountOrZero = 2
    """Leading stages of the backbone that keep their weights (paper, section 4.5; Table 5)."""
    frozen_norm: bool = True
    """Batch norms keep their statistics and affine part: a few images a step estimate neither."""
    pooling: Pooling = "max"
    """How an RoI is pooled: `max` (paper, section 2.1) or `align` (He et al. 2017; TV, D2)."""
    pool_size: PoolSize = 7
    """Side of the pooled map: 6 for S and M, 7 for L (F models/*/train.prototxt)."""
    fc_dim: Width = 4096
    """Width of fc6, and of fc7 where `fc7_dim` is null."""
    fc7_dim: Width | None = None
    """Width of fc7: 1024 for M, as its name VGG_CNN_M_1024 says (F models/VGG_CNN_M_1024). null: `fc_dim`."""
    fc6_rank: Width | None = None
    """Rank of fc6 after truncation (`fastrcnn.svd`). null: the whole layer."""
    fc7_rank: Width | None = None
    """Rank of fc7 after truncation (`fastrcnn.svd`). null: the whole layer."""
    dropout: BelowOne = 0.5
    """Share of the units after fc6 and fc7 that are dropped, in training (F train.prototxt)."""

    scale: Pixels = 600
    """Length of the shorter image side, pixels (paper, section 4)."""
    max_size: Pixels = 1000
    """Longest side, pixels: caps the scale (paper, section 4)."""
    pyramid: tuple[Pixels, ...] = ()
    """Scales of an image pyramid, instead of `scale`; `PYRAMID` is the paper's. In training each image has
    a random one; at test each RoI goes to the level where its area is nearest 224^2 (section 2.4)."""

    rois_per_image: RoIs = 64
    """RoIs sampled from each image of a step: R / N = 128 / 2 (paper, section 2.3)."""
    train_scales: tuple[Pixels, ...] = ()
    """In training each image has a random one of them instead of `scale` (D2 INPUT.MIN_SIZE_TRAIN)."""
    vertical_flips: bool = False
    """In training every second image is turned upside down too: for what has no up, as cells or aerial
    photographs. Left to right every second one is in any case (paper, section 4)."""
    quarter_turns: bool = False
    """In training every second image's rows and columns are swapped too: with `vertical_flips`, without which
    it is refused, all eight symmetries of a square are seen. Images of 4:3 that go through the network
    with turned ones are padded by a third: `images_per_pass=1` saves that."""
    color_jitter: BelowOne = 0.0
    """In training brightness, contrast and saturation of each image are multiplied by random numbers between
    1 - it and 1 + it: for lamps and stains that differ."""
    train_nms: PositiveShare | None = None
    """In training, a proposal whose IoU with a better-ranked one is above it is no candidate: else those of
    large objects crowd the others out (docs/ablations.md: .7 gives bccd 1.5 points). null: all are (F)."""
    fg_fraction: PositiveShare = 0.25
    """Largest share of foreground in the sampled RoIs (paper, section 2.3)."""
    fg_iou: Share = 0.5
    """An RoI is foreground from this IoU with an object (paper, section 2.3)."""
    bg_iou: tuple[Share, Share] = (0.1, 0.5)
    """Background is IoU in [low, high) (paper, section 2.3)."""

    beta: NotNegative = 1.0
    """Where smooth L1 turns linear (paper, equation 3; F). TV 1/9, D2 0."""
    box_weight: NotNegative = 1.0
    """Weight of the box loss, lambda of equation 1; 0 trains the classifier alone (Table 6)."""
    class_agnostic: bool = False
    """One box for all classes, instead of one a class."""
    delta_std: tuple[Positive, Positive, Positive, Positive] | None = None
    """Box targets are divided by it. null: by the mean and deviation of each class, measured on the training
    set, as F does (roidb.py). TV and D2 fix (.1, .1, .2, .2)."""

    test_flips: bool = False
    """At test the image is looked at mirrored too, upside down where `vertical_flips` is set, and on its side
    where `quarter_turns` is: of each proposal the heads' outputs are averaged. Two, four or eight times the
    work."""
    test_scales: tuple[Pixels, ...] = ()
    """At test the proposals are looked at on these scales too, as well as on `scale`, and the heads' outputs
    averaged likewise. An RPN proposes on `scale` alone. With `test_flips` each scale has all the mirrors."""
    box_regression: bool = True
    """Boxes are moved by the regressed deltas. False: proposals are the boxes (Table 6)."""
    classifier: Classifier = "softmax"
    """`svm`: class_logits are the margins of `fastrcnn.svm`, which are the scores as they are (Table 8)."""
    proposal_nms: PositiveShare | None = None
    """At test, a proposal whose IoU with a better-ranked one is above it is not scored. null: all are (F).
    At .8 a fifth goes and mAP stays (docs/ablations.md)."""
    score_threshold: Margin = 0.0
    """Lowest score of a detection (F test.py: 0; TV, D2: .05). An SVM's scores are margins and may be below
    0."""
    nms_threshold: Share = 0.3
    """Suppresses a detection whose IoU with a better one of its class is above it (F test.py; its compiled
    code suppresses at the threshold too)."""
    detections_per_class: Count | None = 100
    """Best of each class kept before suppression (F test.py). null: all."""
    detections_per_image: Count | None = None
    """Best of an image kept after suppression (py-faster-rcnn, TV, D2: 100). null: all (F)."""

    rpn: RPNConfig | None = None
    """A region proposal network on the backbone's maps, trained jointly. null: proposals are given."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.backbone not in BACKBONE_SPECS:
            raise FieldError({"backbone": self.backbone}, f"one of {', '.join(BACKBONE_SPECS)}")
        spec = BACKBONE_SPECS[self.backbone]
        if self.frozen_stages > len(spec.stages):
            expected = f"at most {len(spec.stages)}, the number of stages of {self.backbone}"
            raise self._together(expected, "frozen_stages")
        low, high = self.bg_iou
        if not low < high <= self.fg_iou:
            raise self._together("low < high <= fg_iou", "bg_iou", "fg_iou")
        if self.quarter_turns and not self.vertical_flips:
            expected = "vertical_flips, if quarter_turns is set"
            raise self._together(expected, "quarter_turns", "vertical_flips")
        if self.classifier == "softmax" and self.score_threshold > 1:
            raise self._together("a probability, up to 1", "score_threshold")
        if self.rpn is not None and len(self.rpn.sides) not in (0, len(spec.strides)):
            expected = f"one list for each feature map of {self.backbone}: {len(spec.strides)}"
            raise FieldError({"rpn.sides": self.rpn.sides}, expected)
        self._check_scales()

    def _check_scales(self) -> None:
        for name in ("scale", "pyramid", "train_scales", "test_scales"):
            scales = (self.scale,) if name == "scale" else getattr(self, name)
            if (name != "scale" or not self.pyramid) and max(scales, default=0) > self.max_size:
                raise self._together("scales up to max_size", name, "max_size")
        if self.train_scales and self.pyramid:
            expected = "one of them: a pyramid is trained on its scales"
            raise self._together(expected, "train_scales", "pyramid")
        if self.test_scales and self.pyramid:
            expected = "one of them: a pyramid is tested on its scales"
            raise self._together(expected, "test_scales", "pyramid")
        if len({self.scale, *self.test_scales}) <= len(self.test_scales):
            expected = "each scale once; test_scales must not contain scale, which is always used"
            raise self._together(expected, "test_scales", "scale")
        if self.rpn is not None and self.pyramid:
            raise self._together("no pyramid with an RPN, which looks at one scale", "pyramid")

    def _together(self, expected: str, *names: str) -> FieldError:
        return FieldError({name: getattr(self, name) for name in names}, expected)

    @property
    def scales(self) -> tuple[int, ...]:
        """The pyramid's scales, or the only one."""
        return self.pyramid or (self.scale,)

    @classmethod
    def paper(cls, num_classes: int, *, backbone: str = "vgg16", **changes: Any) -> FastRCNNConfig:
        """The reference implementation's numbers. Where paper and code differ the code is followed, but
        boxes are continuous (F adds 1 to every width) and NMS suppresses only IoU *above* its threshold."""
        numbers: dict[str, Any] = {"fc_dim": 1024, **_spec_numbers(backbone, "paper", changes)}
        return cls(num_classes=num_classes, backbone=backbone, **(numbers | changes))

    @classmethod
    def modern(
        cls, num_classes: int, *, backbone: str = "resnet50_fpn", **changes: Any
    ) -> FastRCNNConfig:
        """What is trained today: TV's and D2's numbers (RoIAlign, 512 RoIs, no background floor)."""
        numbers: dict[str, Any] = {
            "pooling": "align",
            "fc_dim": 1024,
            "dropout": 0.0,
            "rois_per_image": 512,
            "bg_iou": (0.0, 0.5),
            "delta_std": (0.1, 0.1, 0.2, 0.2),
            "beta": 1 / 9,
            "proposal_nms": 0.8,
            "score_threshold": 0.05,
            "nms_threshold": 0.5,
            "detections_per_class": None,
            "detections_per_image": 100,
            **_spec_numbers(backbone, "modern", changes),
        }
        return cls(num_classes=num_classes, backbone=backbone, **(numbers | changes))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FastRCNNConfig:
        """Inverse of `dataclasses.asdict` after a round through JSON; unknown names raise ValueError."""
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError(f"unknown model settings: {', '.join(sorted(unknown))}")
        known: dict[str, Any] = {k: as_tuples(v) for k, v in filled(cls, values).items()}
        if isinstance(known.get("rpn"), dict):
            rpn = filled(RPNConfig, known["rpn"])
            known["rpn"] = RPNConfig(**{k: as_tuples(v) for k, v in rpn.items()})
        return cls(**known)


def _spec_numbers(backbone: Any, preset: Preset, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers that the backbone's spec sets; none for an unknown name, which `FastRCNNConfig` refuses."""
    spec = BACKBONE_SPECS.get(backbone) if isinstance(backbone, str) else None
    return {} if spec is None else spec.preset_numbers(preset, changes)
