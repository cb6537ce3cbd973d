"""The comparisons as data: trainings, tests and the numbers of the paper for each row.

A comparison has rows. A row has one Training and one Test. Equal trainings of several rows are made once.
Numbers of the paper are mAP on the VOC 2007 test set in per cent, for the models S, M and L (sections 4.4 to
5.5).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from fastrcnn.config import LEARNED, PYRAMID, PYRAMID_MAX_SIZE
from pipeline.ablation.config import AblateConfig, Row, Test, Training
from pipeline.ablation.torchvision_heads import RECIPE
from pipeline.errors import UserError

BASE = Training()
PLAIN = Test()
CLASSIFIER = Training(settings=("box_weight=0",))
STAGE_WISE = Training(settings=("trained=bbox_pred",), start=CLASSIFIER)
ALL_STAGES = 5
"""Number of stages of each backbone: S, M, L, mobilenet_v2, resnet50 and tiny."""

Case = tuple[str, Training, Test, str]
"""Setting, training, test, numbers of the paper."""


def rows(config: AblateConfig) -> list[Row]:
    """Give the rows of the requested comparisons, in the order of the paper, one per seed.

    Raises:
        UserError: an unknown comparison.
    """
    unknown = [name for name in config.comparisons if name not in COMPARISONS]
    if unknown:
        raise UserError(
            f"--comparisons {' '.join(unknown)}",
            "unknown comparison",
            f"Expected some of {', '.join(COMPARISONS)}.",
        )
    names = config.comparisons or tuple(name for name in COMPARISONS if name not in NAMED_ONLY)
    return [
        Row(
            comparison=name,
            setting=setting,
            training=_seeded(training, seed),
            test=test,
            paper=paper,
        )
        for name in names
        for setting, training, test, paper in COMPARISONS[name](config)
        for seed in config.seeds
    ]


def _seeded(training: Training, seed: int) -> Training:
    """Give the training with this seed, and also the training that it starts from."""
    start = _seeded(training.start, seed) if training.start else None
    return replace(training, seed=seed, start=start)


def _sampling(config: AblateConfig) -> list[Case]:
    rois = 2 * config.rois_per_image
    one_each = ("rois_per_image=1", f"batch_size={rois}", "images_per_pass=8")
    paper = "the paper argues 64x (128 / 2 images a step)"
    return [
        (f"hierarchical: {rois} RoIs of 2 images", BASE, PLAIN, paper),
        (f"RoI-centric: {rois} RoIs of {rois} images", Training(settings=one_each), PLAIN, ""),
    ]


def _multi_task(config: AblateConfig) -> list[Case]:
    proposals_alone = Test(box_regression=False)
    return [
        ("classification only", CLASSIFIER, proposals_alone, "S 52.2, M 54.7, L 62.6"),
        ("multi-task, no boxes at test", BASE, proposals_alone, "S 53.3, M 55.5, L 63.4"),
        ("stage-wise", STAGE_WISE, PLAIN, "S 54.6, M 56.6, L 64.0"),
        ("multi-task", BASE, PLAIN, "S 57.1, M 59.2, L 66.9"),
    ]


def _scales(config: AblateConfig) -> list[Case]:
    pyramid = [round(scale * config.scale / 600) for scale in PYRAMID]
    longest = round(PYRAMID_MAX_SIZE * config.scale / 600)
    five = Training(settings=(f"pyramid={','.join(map(str, pyramid))}", f"max_size={longest}"))
    return [
        (f"1 scale: {config.scale}", BASE, PLAIN, "S 57.1 (.10 s), M 59.2 (.15 s)"),
        (f"5 scales: {pyramid}", five, PLAIN, "S 58.4 (.39 s), M 60.7 (.64 s)"),
    ]


def _svd(config: AblateConfig) -> list[Case]:
    return [
        ("whole fc6 and fc7", BASE, PLAIN, "S 57.1, M 59.2, L 66.9 (.32 s)"),
        (
            f"truncated to {config.svd_shares[0]:g} and {config.svd_shares[1]:g}",
            BASE,
            Test(svd=config.svd_shares),
            "S 56.5, M 58.7, L 66.6 (.22 s)",
        ),
    ]


def _svm(config: AblateConfig) -> list[Case]:
    return [
        ("SVMs", BASE, Test(svm=True), "S 56.3, M 58.7, L 66.8"),
        ("softmax", BASE, PLAIN, "S 57.1, M 59.2, L 66.9"),
    ]


def _proposals(config: AblateConfig) -> list[Case]:
    num_proposals = config.max_proposals
    counts = sorted({max(num_proposals // 16, 1), max(num_proposals // 4, 1), num_proposals})
    return [
        (
            f"{count} proposals",
            BASE if count == num_proposals else Training(max_proposals=count),
            PLAIN,
            "rises, then falls a little, from 1k to 10k (figure 3)"
            if count == num_proposals
            else "",
        )
        for count in counts
    ]


def _layers(config: AblateConfig) -> list[Case]:
    published = {
        ALL_STAGES: "L 61.4 (fc6 and up)",
        2: "L 66.9 (conv3_1 and up)",
        1: "L 67.2 (conv2_1 and up)",
    }
    return [
        (
            f"{frozen} of {ALL_STAGES} stages frozen"
            + (" (as SPPnet)" if frozen == ALL_STAGES else ""),
            Training(settings=(f"frozen_stages={frozen}",)),
            PLAIN,
            published[frozen],
        )
        for frozen in (ALL_STAGES, 2, 1)
    ]


def _class_agnostic(config: AblateConfig) -> list[Case]:
    return [
        ("one box a class", BASE, PLAIN, ""),
        ("one box for all", Training(settings=("class_agnostic=true",)), PLAIN, ""),
    ]


def _roi_heads(config: AblateConfig) -> list[Case]:
    return [
        ("ours", BASE, PLAIN, ""),
        ("torchvision's RoIHeads", Training(torchvision_heads=True), PLAIN, ""),
    ]


def _proposers(config: AblateConfig) -> list[Case]:
    return [
        (name, Training(proposals=name), PLAIN, "")
        for name in ("opencv", "selective_search", "grid", LEARNED)
    ]


def _faster_rcnn(config: AblateConfig) -> list[Case]:
    ours = [
        (f"ours, {name}", Training(proposals=name), PLAIN, "")
        for name in ("selective_search", "grid", LEARNED)
    ]
    peer = Training(torchvision_heads=True, proposals=LEARNED, settings=RECIPE)
    return [*ours, ("torchvision's Faster R-CNN, its recipe", peer, PLAIN, "")]


def _recipe(config: AblateConfig) -> list[Case]:
    """Give the parts of a recipe: each is added to AdamW alone."""
    adamw = ("optimizer=adamw", "learning_rate=0.0002")  # for the two images a step of this job
    parts = {
        "AdamW": (),
        "AdamW, average of the weights": ("ema_decay=0.999",),
        "AdamW, repeat factors": ("repeat_threshold=0.3",),
        "AdamW, crops": ("crop_jitter=0.5,1.5",),
    }
    cases = [(name, Training(settings=(*adamw, *part)), PLAIN, "") for name, part in parts.items()]
    return [("SGD", BASE, PLAIN, ""), *cases]


COMPARISONS: dict[str, Callable[[AblateConfig], list[Case]]] = {
    "sampling": _sampling,
    "multi_task": _multi_task,
    "scales": _scales,
    "svd": _svd,
    "svm": _svm,
    "proposals": _proposals,
    "layers": _layers,
    "class_agnostic": _class_agnostic,
    "roi_heads": _roi_heads,
    "proposers": _proposers,
    "faster_rcnn": _faster_rcnn,
    "recipe": _recipe,
}
NAMED_ONLY = ("roi_heads", "proposers", "faster_rcnn", "recipe")
"""Comparisons that are not in the paper: with torchvision, of proposers, of the parts of a recipe. They run
only if named."""
