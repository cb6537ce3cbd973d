"""Every number of the model, with its source. The checkpoint stores it; scoring reads it from there.

F = rbgirshick/fast-rcnn (the reference code), TV = torchvision's detection models, D2 = detectron2.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from fastrcnn.rpn_config import RPNConfig

Pooling = Literal["max", "align"]
Classifier = Literal["softmax", "svm"]
PYRAMID, PYRAMID_MAX_SIZE = (480, 576, 688, 864, 1200), 2000
"""Paper, section 4 (F experiments/cfgs/multiscale.yml)."""
BACKBONES = (
    "caffenet",
    "vgg_m",
    "vgg16",
    "resnet50",
    "resnet50_fpn",
    "mobilenet_v2",
    "squeezenet1_0",
    "squeezenet1_1",
    "tiny",
)
_PAPER_FROZEN_STAGES = {"caffenet": 1, "vgg_m": 1, "vgg16": 2}
"""Paper, section 4.5: conv1 of S and M, conv1_1 to conv2_2 of L are not trained."""


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
    """Of one segmentation: what grouping costs grows faster than they do."""
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
"""Of the proposers that have any. A `grid` is fitted to the training boxes unless it is `unfitted`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProposalConfig:
    """How candidate boxes are made. Stored in the checkpoint: a detector knows only its own kind."""

    name: str = "selective_search"
    """`selective_search` (ours), `opencv` (its selective search), `grid`, `table` (precomputed), or `rpn`
    (the model's own)."""
    mode: str = "fast"
    """`selective_search`: `fast`, `small` or `exact`. `opencv`: `fast` or `quality`. `grid`: `fast` or
    `unfitted`."""
    max_boxes: int = 2000
    """Kept an image, best first (paper, section 4: about 2000)."""
    min_size: int | None = None
    """Shortest side of a proposal, pixels of the image; by default the mode's, else 20
    (selective_search_boxes.m of R-CNN)."""
    seed: int = 0
    """Of the random part of the order."""
    max_side: int | None = None
    k: tuple[int, ...] | None = None
    strategies: tuple[str, ...] | None = None
    """Of `selective_search`, see `SelectiveSearchMode`; by default the mode's."""
    shapes: tuple[tuple[float, float], ...] | None = None
    """Of a fitted `grid`: (height, width) of its boxes, as shares of the image's shorter side
    (`fastrcnn.anchors`)."""

    def __post_init__(self) -> None:
        """Fill in what the mode says: a checkpoint keeps it even if a later version's modes are others."""
        filled: dict[str, Any] = {"min_size": 20}
        if self.name == "selective_search":
            if self.mode not in SELECTIVE_SEARCH_MODES:
                modes = ", ".join(SELECTIVE_SEARCH_MODES)
                raise ValueError(f"mode={self.mode!r}: selective_search has {modes}")
            mode = SELECTIVE_SEARCH_MODES[self.mode]
            filled = {n: getattr(mode, n) for n in ("min_size", "max_side", "k", "strategies")}
        for name, value in filled.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        for name in ("k", "strategies", "shapes"):  # JSON has lists
            object.__setattr__(self, name, _tuples(getattr(self, name)))
        if not all(0 < side < 1e6 for shape in self.shapes or () for side in shape):
            raise ValueError(f"shapes={self.shapes}: must be above 0")

    def settings(self) -> dict[str, Any]:
        """For hashes: a field that came later is part of them only where it is set."""
        settings = asdict(self)
        return settings if self.shapes else {k: v for k, v in settings.items() if k != "shapes"}


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


@dataclass(frozen=True, kw_only=True, slots=True)
class FastRCNNConfig:
    """The model's numbers. Use `.paper` or `.modern`; the bare defaults are `paper` with VGG16."""

    num_classes: int
    """K, without background."""
    backbone: str = "vgg16"
    frozen_stages: int = 2
    """Leading stages of the backbone that keep their weights (paper, section 4.5; Table 5)."""
    frozen_norm: bool = True
    """Batch norms keep their statistics and affine part: a few images a step estimate neither."""
    pooling: Pooling = "max"
    pool_size: int = 7
    """Side of the pooled map: 6 for S and M, 7 for L (F models/*/train.prototxt)."""
    fc_dim: int = 4096
    """Width of fc6, and of fc7 where `fc7_dim` is None."""
    fc7_dim: int | None = None
    """1024 for M, as its name VGG_CNN_M_1024 says (F models/VGG_CNN_M_1024)."""
    fc6_rank: int | None = None
    fc7_rank: int | None = None
    """Ranks of truncated layers (`fastrcnn.svd`); None: whole layers."""
    dropout: float = 0.5
    """After fc6 and fc7, in training (F train.prototxt)."""

    scale: int = 600
    """Length of the shorter image side, pixels (paper, section 4)."""
    max_size: int = 1000
    """Longest side, pixels: caps the scale (paper, section 4)."""
    pyramid: tuple[int, ...] = ()
    """Scales of an image pyramid, instead of `scale`; `PYRAMID` is the paper's. In training each image has
    a random one; at test each RoI goes to the level where its area is nearest 224^2 (section 2.4)."""

    rois_per_image: int = 64
    """R / N = 128 / 2 (paper, section 2.3)."""
    train_scales: tuple[int, ...] = ()
    """In training each image has a random one of them instead of `scale` (D2 INPUT.MIN_SIZE_TRAIN)."""
    vertical_flips: bool = False
    """In training every second image is turned upside down too: for what has no up, as cells or aerial
    photographs. Left to right every second one is in any case (paper, section 4)."""
    quarter_turns: bool = False
    """In training every second image's rows and columns are swapped too: with `vertical_flips`, without which
    it is refused, all eight symmetries of a square are seen. Images of 4:3 that go through the network
    with turned ones are padded by a third: `images_per_pass=1` saves that."""
    color_jitter: float = 0.0
    """In training brightness, contrast and saturation of each image are multiplied by random numbers between
    1 - it and 1 + it: for lamps and stains that differ."""
    train_nms: float | None = None
    """In training, proposals whose IoU with a better-ranked one is above it are no candidates: else those of
    large objects crowd the others out (docs/ablations.md: .7 gives bccd 1.5 points). None: all are (F)."""
    fg_fraction: float = 0.25
    fg_iou: float = 0.5
    bg_iou: tuple[float, float] = (0.1, 0.5)
    """Background is IoU in [low, high) (paper, section 2.3)."""

    beta: float = 1.0
    """Where smooth L1 turns linear (paper, equation 3; F). TV 1/9, D2 0."""
    box_weight: float = 1.0
    """lambda of equation 1; 0 trains the classifier alone (Table 6)."""
    class_agnostic: bool = False
    """One box for all classes, instead of one a class."""
    delta_std: tuple[float, float, float, float] | None = None
    """Targets are divided by it. None: per class mean and deviation, measured on the training set, as F
    does (roidb.py). TV and D2 fix (.1, .1, .2, .2)."""

    test_flips: bool = False
    """At test the image is looked at mirrored too, upside down where `vertical_flips` is set, and on its side
    where `quarter_turns` is: of each proposal the heads' outputs are averaged. Two, four or eight times the
    work."""
    test_scales: tuple[int, ...] = ()
    """At test the proposals are looked at on these scales too, as well as on `scale`, and the heads' outputs
    averaged likewise. An RPN proposes on `scale` alone. With `test_flips` each scale has all the mirrors."""
    box_regression: bool = True
    """False: proposals are the boxes, whatever the deltas say (Table 6)."""
    classifier: Classifier = "softmax"
    """`svm`: class_logits are the margins of `fastrcnn.svm`, which are the scores as they are (Table 8)."""
    proposal_nms: float | None = None
    """At test, a proposal whose IoU with a better-ranked one is above it is not scored. None: all are (F).
    At .8 a fifth goes and mAP stays (docs/ablations.md)."""
    score_threshold: float = 0.0
    nms_threshold: float = 0.3
    """F test.py. Suppresses IoU above it (F's compiled code: at or above)."""
    detections_per_class: int | None = 100
    """Best of each class kept before suppression (F test.py)."""
    detections_per_image: int | None = None
    """Best of an image kept after suppression (PF, TV, D2: 100; F: all)."""

    rpn: RPNConfig | None = None
    """A region proposal network on the backbone's maps, trained jointly. None: proposals are given."""

    def __post_init__(self) -> None:
        if self.num_classes < 1:
            raise ValueError(f"num_classes={self.num_classes}: a detector needs at least one class")
        if self.backbone not in BACKBONES:
            raise ValueError(f"backbone={self.backbone!r}: known are {', '.join(BACKBONES)}")
        if self.pooling not in ("max", "align"):
            raise ValueError(f"pooling={self.pooling!r}: is 'max' or 'align'")
        low, high = self.bg_iou
        if not 0 <= low < high <= self.fg_iou <= 1:
            raise ValueError(
                f"bg_iou={self.bg_iou}, fg_iou={self.fg_iou}: need 0 <= low < high <= fg_iou <= 1"
            )
        for name in ("train_nms", "proposal_nms"):
            iou = getattr(self, name)
            if iou is not None and not 0 < iou <= 1:
                raise ValueError(f"{name}={iou}: is an IoU, above 0 and at most 1")
        if not 0 < self.fg_fraction <= 1:
            raise ValueError(f"fg_fraction={self.fg_fraction}: is a share of the RoIs")
        if self.quarter_turns and not self.vertical_flips:
            raise ValueError(
                "quarter_turns without vertical_flips: what may lie on its side may stand on its head"
            )
        if not 0 <= self.color_jitter < 1:
            raise ValueError(f"color_jitter={self.color_jitter}: must be at least 0 and below 1")
        for scale in (*self.scales, *self.train_scales, *self.test_scales):
            if not 0 < scale <= self.max_size:
                raise ValueError(
                    f"scale={scale}, max_size={self.max_size}: need 0 < scale <= max_size"
                )
        if self.train_scales and self.pyramid:
            raise ValueError(
                f"train_scales={self.train_scales}, pyramid={self.pyramid}: a pyramid's are trained on"
            )
        if self.test_scales and self.pyramid:
            raise ValueError(
                f"test_scales={self.test_scales}, pyramid={self.pyramid}: a pyramid has scales of its own"
            )
        if len({self.scale, *self.test_scales}) <= len(self.test_scales):
            raise ValueError(
                f"test_scales={self.test_scales}, scale={self.scale}: each counts once, and scale in any case"
            )
        if self.rpn is not None and self.pyramid:
            raise ValueError(f"pyramid={self.pyramid}: an RPN looks at one scale")

    @property
    def scales(self) -> tuple[int, ...]:
        """Of the pyramid, or the only one."""
        return self.pyramid or (self.scale,)

    @classmethod
    def paper(cls, num_classes: int, *, backbone: str = "vgg16", **changes: Any) -> FastRCNNConfig:
        """The reference implementation's numbers. Where paper and code differ the code is followed, but
        boxes are continuous (F adds 1 to every width) and NMS suppresses only IoU *above* its threshold."""
        numbers: dict[str, Any] = {
            "pool_size": 6 if backbone in ("caffenet", "vgg_m") else 7,
            "fc_dim": 4096 if backbone in _PAPER_FROZEN_STAGES else 1024,
            "fc7_dim": 1024 if backbone == "vgg_m" and "fc_dim" not in changes else None,
            "frozen_stages": _PAPER_FROZEN_STAGES.get(backbone, 2),
        }
        return cls(num_classes=num_classes, backbone=backbone, **(numbers | changes))

    @classmethod
    def modern(
        cls, num_classes: int, *, backbone: str = "resnet50_fpn", **changes: Any
    ) -> FastRCNNConfig:
        """What is trained today: TV's and D2's numbers (RoIAlign, 512 RoIs, no background floor)."""
        numbers: dict[str, Any] = {
            "pooling": "align",
            "pool_size": 6 if backbone in ("caffenet", "vgg_m") else 7,
            "fc_dim": 4096 if backbone in _PAPER_FROZEN_STAGES else 1024,
            "fc7_dim": 1024 if backbone == "vgg_m" and "fc_dim" not in changes else None,
            "frozen_stages": 0 if backbone == "tiny" else 2,
            "dropout": 0.0,
            "rois_per_image": 512,
            "bg_iou": (0.0, 0.5),
            "delta_std": (0.1, 0.1, 0.2, 0.2),
            "scale": 800 if backbone == "resnet50_fpn" else 600,
            "max_size": 1333 if backbone == "resnet50_fpn" else 1000,
            "beta": 1 / 9,
            "proposal_nms": 0.8,
            "score_threshold": 0.05,
            "nms_threshold": 0.5,
            "detections_per_class": None,
            "detections_per_image": 100,
        }
        return cls(num_classes=num_classes, backbone=backbone, **(numbers | changes))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> FastRCNNConfig:
        """Inverse of `dataclasses.asdict` after a round through JSON; unknown names raise ValueError."""
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError(f"unknown model settings: {', '.join(sorted(unknown))}")
        known: dict[str, Any] = {k: _tuples(v) for k, v in values.items()}
        if known.get("rpn") is not None:
            if not isinstance(known["rpn"], dict):
                raise ValueError("rpn is no set of numbers")
            known["rpn"] = RPNConfig(**{k: _tuples(v) for k, v in known["rpn"].items()})
        return cls(**known)
