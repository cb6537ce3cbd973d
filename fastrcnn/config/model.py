"""The numbers of the model. The checkpoint stores them; scoring reads them from there.

F = rbgirshick/fast-rcnn (the reference code), TV = torchvision's detection models, D2 = detectron2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from fastrcnn.backbones import BACKBONE_SPECS, KNOWN, backbone_spec
from fastrcnn.backbones.spec import BackboneSpec, Preset
from fastrcnn.config.growth import as_tuples, fill_later_fields
from fastrcnn.config.ranges import (
    BelowOne,
    Count,
    CountOrZero,
    FieldError,
    Finite,
    Margin,
    NotNegative,
    Pixels,
    PoolSize,
    Positive,
    PositiveShare,
    RoIs,
    Share,
    TileOverlap,
    TileSide,
    Width,
    check_fields,
)
from fastrcnn.config.rpn import RPNConfig

Pooling = Literal["max", "align"]
Classifier = Literal["softmax", "svm"]
Resize = Literal["round", "floor"]
PYRAMID, PYRAMID_MAX_SIZE = (480, 576, 688, 864, 1200), 2000
"""Paper, section 4 (F experiments/cfgs/multiscale.yml)."""
BACKBONES = tuple(BACKBONE_SPECS)
"""The names of the backbones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FastRCNNConfig:
    """The model's numbers. Use `.paper` or `.modern`; the defaults are `paper` with VGG16."""

    num_classes: Count
    """Number of classes K, without the background."""
    backbone: str = "vgg16"
    """Network that makes the feature maps: one of `BACKBONES`, or timm/NAME (paper, section 4.1: S is
    caffenet, M vgg_m, L vgg16)."""
    frozen_stages: CountOrZero = 2
    """First stages of the backbone that keep their weights (paper, section 4.5; Table 5)."""
    frozen_norm: bool = True
    """Batch norms keep their statistics, scale and shift: a few images a step are too few to estimate
    them."""
    pooling: Pooling = "max"
    """How an RoI is pooled: `max` (paper, section 2.1) or `align` (He et al. 2017; TV, D2)."""
    aligned: bool = True
    """Whether `align` pools at the centres of cells (D2). False: half a cell away, as TV's published
    detectors were trained (TV poolers.py)."""
    pool_size: PoolSize = 7
    """Side of the pooled map, cells: 6 for S and M, 7 for L (F models/*/train.prototxt)."""
    head_convs: CountOrZero = 0
    """3 x 3 convolutions before fc6, each with a norm. With them the head has no fc7. TV's
    fasterrcnn_resnet50_fpn_v2 has 4."""
    fc_dim: Width = 4096
    """Width of fc6, and of fc7 if `fc7_dim` is null."""
    fc7_dim: Width | None = None
    """Width of fc7: 1024 for M, as its name VGG_CNN_M_1024 says (F models/VGG_CNN_M_1024). null: `fc_dim`."""
    fc6_rank: Width | None = None
    """Rank of fc6 after truncation (`fastrcnn.svd`). null: the layer is not truncated."""
    fc7_rank: Width | None = None
    """Rank of fc7 after truncation (`fastrcnn.svd`). null: the layer is not truncated."""
    dropout: BelowOne = 0.5
    """Share of the units after fc6 and fc7 that are dropped in training (F train.prototxt)."""

    scale: Pixels = 600
    """Length of the shorter image side, pixels (paper, section 4)."""
    max_size: Pixels = 1000
    """Upper limit of the longer image side, pixels. Images that would exceed it are scaled to it instead
    (paper, section 4)."""
    resize: Resize = "round"
    """How the size of a resized image becomes whole pixels. `round`: to the nearest. `floor`: down (TV
    transform.py)."""
    pyramid: tuple[Pixels, ...] = ()
    """Scales of an image pyramid, instead of `scale`; `PYRAMID` is the paper's. In training, each image gets
    a random one of them. At test, each RoI is pooled from the scale at which its area is nearest to 224^2
    (paper, section 2.4)."""

    tile: TileSide | None = None
    """Side of the tiles that a larger image is divided into, pixels of the upright image. Detection looks at
    each tile and at the whole image; a training step sees a window of this size, or the whole image. A tile
    is resized by `scale` as an image is (docs/tiles.md). null: whole images only."""
    tile_overlap: TileOverlap = 0.2
    """Share of `tile` that two neighbours have in common."""
    whole_share: Share = 0.2
    """With `tile`, share of the training images that are shown whole."""

    rois_per_image: RoIs = 64
    """RoIs sampled from each image in training: R / N = 128 / 2 (paper, section 2.3)."""
    train_scales: tuple[Pixels, ...] = ()
    """In training, each image gets a random one of these scales instead of `scale` (D2
    INPUT.MIN_SIZE_TRAIN)."""
    horizontal_flips: bool = True
    """In training, a random half of the images is mirrored left to right (paper, section 4). False suits
    objects that a mirror changes, such as print, digits, or arrows to the left and to the right."""
    vertical_flips: bool = False
    """In training, a random half of the images is also turned upside down. It suits images without an upright
    orientation, such as cells or aerial photographs."""
    quarter_turns: bool = False
    """In training, rows and columns of a random half of the images are also swapped. It needs
    `vertical_flips`; together they give all eight symmetries of a square. If images of 4:3 share a batch with
    turned ones, each is padded by a third; `images_per_pass=1` avoids that."""
    color_jitter: BelowOne = 0.0
    """In training, brightness, contrast and saturation of each image are multiplied by random numbers from
    1 - color_jitter to 1 + color_jitter. It suits images that differ in light or stain."""
    crop_jitter: tuple[Positive, Positive] | None = None
    """In training, each image is scaled by a random number between these two, of which the logarithm is
    uniform. Above 1, a random window of the image fills the frame; objects of which less than a half is in
    it become ignored regions. Below 1, the image is made smaller. .5 and 1.5 suit small sets. null: images
    keep their size."""
    train_nms: PositiveShare | None = None
    """In training, a proposal is left out if its IoU with a better-ranked one is above this. Otherwise
    proposals on large objects take most of the sample (docs/ablations.md: .7 raises bccd by 1.5 points).
    null: all are kept (F)."""
    fg_fraction: PositiveShare = 0.25
    """Largest share of foreground among the sampled RoIs (paper, section 2.3)."""
    fg_iou: Share = 0.5
    """An RoI is foreground from this IoU with an object (paper, section 2.3)."""
    bg_iou: tuple[Share, Share] = (0.1, 0.5)
    """Background is IoU in [low, high) (paper, section 2.3)."""

    beta: NotNegative = 1.0
    """Error at which smooth L1 turns linear (paper, equation 3; F). TV 1/9, D2 0."""
    box_weight: NotNegative = 1.0
    """Weight of the box loss, lambda of equation 1; 0 trains the classifier alone (Table 6)."""
    class_agnostic: bool = False
    """Predict one box for all classes, instead of one for each class."""
    delta_std: tuple[Positive, Positive, Positive, Positive] | None = None
    """Box targets are divided by these. null: they are normalised by the mean and deviation of each class,
    measured on the training set, as in F (roidb.py). TV and D2 have (.1, .1, .2, .2)."""

    test_flips: bool = False
    """At test, the network also runs on the images that training shows too: with `horizontal_flips` mirrored,
    with `vertical_flips` upside down, and with `quarter_turns` turned on the side. The outputs for each
    proposal are averaged. Scoring takes two, four or eight times as long."""
    test_scales: tuple[Pixels, ...] = ()
    """At test, the network also runs on these scales, in addition to `scale`. The outputs for each proposal
    are averaged. An RPN makes its proposals on `scale` only. `test_flips` applies to each scale."""
    box_regression: bool = True
    """Move the proposals by the predicted deltas. False: the proposals are the boxes (paper, Table 6)."""
    classifier: Classifier = "softmax"
    """`softmax`: scores are probabilities. `svm`: class_logits are the margins of `fastrcnn.svm`, and
    these are the scores (paper, Table 8)."""
    proposal_nms: PositiveShare | None = None
    """At test, a proposal is not scored if its IoU with a better-ranked one is above this. null: all are
    scored (F). At .8 a fifth of them is left out and mAP stays (docs/ablations.md)."""
    score_threshold: Margin = 0.0
    """Lowest score of a detection, before calibration (F test.py: 0; TV, D2: .05). An SVM's scores are
    margins and may be below 0."""
    nms_threshold: Share = 0.3
    """A detection is suppressed if its IoU with a better one of its class is above this (F test.py; its
    compiled code also suppresses at exactly the threshold)."""
    detections_per_class: Count | None = 100
    """Detections of each class that are kept before suppression, best first (F test.py). null: all."""
    detections_per_image: Count | None = None
    """Detections of an image that are kept after suppression, best first (py-faster-rcnn, TV, D2: 100). null:
    all (F)."""

    calibrate: bool = False
    """After the last training step, fit `calibration` to the validation images. Without a validation split, a
    tenth of the training images is held out for it. Afterwards, .5 means one in two."""
    calibration: tuple[tuple[Positive, Finite], ...] | None = None
    """Numbers a and b for each class: scores become sigmoid(a logit(score) + b) after suppression
    (`fastrcnn.calibration`). null: the scores of the softmax."""
    one_class_iou: PositiveShare | None = None
    """An object has one class. So after calibration, a score is at most 1 minus the score of a better
    detection of another class, if their IoU is above this. Of two boxes on an object, only one then has a
    score above .5. It suits labels where objects of two classes never share a box. null: a class does not
    change the scores of another one (F, TV, D2)."""

    rpn: RPNConfig | None = None
    """A region proposal network on the backbone's maps, trained with the heads. null: there is none, and
    proposals are given."""

    def __post_init__(self) -> None:
        check_fields(self)
        spec = _find_spec(self.backbone)
        if self.frozen_stages > len(spec.stages):
            expected = f"at most {len(spec.stages)}, the number of stages of {self.backbone}"
            raise self._conflict(expected, "frozen_stages")
        low, high = self.bg_iou
        if not low < high <= self.fg_iou:
            raise self._conflict("low < high <= fg_iou", "bg_iou", "fg_iou")
        if self.quarter_turns and not self.vertical_flips:
            expected = "vertical_flips=true with quarter_turns"
            raise self._conflict(expected, "quarter_turns", "vertical_flips")
        if self.classifier == "softmax" and self.score_threshold > 1:
            raise self._conflict("a probability, up to 1", "score_threshold")
        if self.one_class_iou is not None and self.classifier == "svm":
            expected = "null with an SVM, whose scores are no probabilities"
            raise self._conflict(expected, "one_class_iou", "classifier")
        if self.calibration is not None:
            self._check_calibration()
        if self.crop_jitter and not self.crop_jitter[0] <= self.crop_jitter[1]:
            raise self._conflict("the smaller factor first", "crop_jitter")
        if self.head_convs and (self.fc7_dim or self.fc7_rank):
            expected = "no fc7 with head_convs, whose head has fc6 only"
            raise self._conflict(expected, "head_convs", "fc7_dim", "fc7_rank")
        if self.rpn is not None:
            num_maps = len(self.rpn.map_strides(spec.strides))
            if len(self.rpn.sides) not in (0, num_maps):
                expected = f"one list for each feature map of {self.backbone}: {num_maps}"
                raise FieldError({"rpn.sides": self.rpn.sides}, expected)
        self._check_scales()

    def _check_calibration(self) -> None:
        if self.classifier == "svm":
            expected = "null with an SVM, whose scores are no probabilities"
            raise self._conflict(expected, "calibration", "classifier")
        if len(self.calibration or ()) != self.num_classes:
            expected = f"a pair of numbers for each of the {self.num_classes} classes"
            raise self._conflict(expected, "calibration")

    def _check_scales(self) -> None:
        for name in ("scale", "pyramid", "train_scales", "test_scales"):
            scales = (self.scale,) if name == "scale" else getattr(self, name)
            if (name != "scale" or not self.pyramid) and max(scales, default=0) > self.max_size:
                raise self._conflict("scales up to max_size", name, "max_size")
        if self.train_scales and self.pyramid:
            expected = "only one of them: with a pyramid, training uses its scales"
            raise self._conflict(expected, "train_scales", "pyramid")
        if self.crop_jitter and self.pyramid:
            expected = "only one of them: with a pyramid, training uses its scales"
            raise self._conflict(expected, "crop_jitter", "pyramid")
        if self.test_scales and self.pyramid:
            expected = "only one of them: with a pyramid, tests use its scales"
            raise self._conflict(expected, "test_scales", "pyramid")
        if len({self.scale, *self.test_scales}) <= len(self.test_scales):
            expected = "each scale once, and test_scales without scale, which is always used"
            raise self._conflict(expected, "test_scales", "scale")
        if self.tile is not None and self.pyramid:
            expected = "only one of them: a pyramid already looks at several scales"
            raise self._conflict(expected, "tile", "pyramid")
        if self.rpn is not None and self.pyramid:
            raise self._conflict("no pyramid with an RPN, which uses one scale", "pyramid")

    def _conflict(self, expected: str, *names: str) -> FieldError:
        return FieldError({name: getattr(self, name) for name in names}, expected)

    @property
    def scales(self) -> tuple[int, ...]:
        """The scales of the pyramid, or `scale` alone."""
        return self.pyramid or (self.scale,)

    @classmethod
    def paper(cls, num_classes: int, *, backbone: str = "vgg16", **changes: Any) -> FastRCNNConfig:
        """Give the reference code's numbers, also where the paper has others. Two things differ from F: boxes
        are continuous (F adds 1 to every width), and NMS suppresses only IoU *above* its threshold."""
        numbers: dict[str, Any] = {"fc_dim": 1024, **_spec_numbers(backbone, "paper", changes)}
        return cls(num_classes=num_classes, backbone=backbone, **(numbers | changes))

    @classmethod
    def modern(
        cls, num_classes: int, *, backbone: str = "resnet50_fpn", **changes: Any
    ) -> FastRCNNConfig:
        """Give the numbers of TV and D2: RoIAlign, 512 RoIs, background from IoU 0."""
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
            "calibrate": True,
            **_spec_numbers(backbone, "modern", changes),
        }
        return cls(num_classes=num_classes, backbone=backbone, **(numbers | changes))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FastRCNNConfig:
        """Read what `dataclasses.asdict` and JSON made of a config. ValueError: unknown names."""
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError(f"unknown model settings: {', '.join(sorted(unknown))}")
        known: dict[str, Any] = {k: as_tuples(v) for k, v in fill_later_fields(cls, values).items()}
        if isinstance(known.get("rpn"), dict):
            rpn = fill_later_fields(RPNConfig, known["rpn"])
            known["rpn"] = RPNConfig(**{k: as_tuples(v) for k, v in rpn.items()})
        return cls(**known)


def _spec_numbers(backbone: Any, preset: Preset, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Give the numbers that the backbone's spec sets. An unknown name has none: `FastRCNNConfig` refuses
    it."""
    try:
        spec = _find_spec(backbone) if isinstance(backbone, str) else None
    except FieldError:
        return {}
    return {} if spec is None else spec.preset_numbers(preset, changes)


def _find_spec(backbone: str) -> BackboneSpec:
    """Return the spec of a backbone. Raise FieldError if there is none."""
    try:
        return backbone_spec(backbone)
    except KeyError as error:
        raise FieldError({"backbone": backbone}, f"one of {KNOWN}") from error
    except ValueError as error:
        raise FieldError({"backbone": backbone}, str(error)) from error
