"""Choose the numbers of a training that no flag gives, from its labels and its device. Pure functions.

Each choice has a reason, which the log shows with the flag that overrides the choice. The numbers were
measured on small sets with a small backbone; `docs/recipe.md` says how.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from fastrcnn.backbones import BACKBONE_SPECS, CHOSEN_BACKBONES
from fastrcnn.config import LEARNED, PROPOSER_SPECS, FastRCNNConfig
from pipeline.config.numbers import flag_of, max_size_of
from pipeline.training.label_statistics import ONE_CLASS_IOU
from pipeline.training.situation import Choice, Situation
from pipeline.training.solver_recipe import solver_choices
from pipeline.training.tile_choice import choose_tile

SMALL_BACKBONE, LARGE_BACKBONE = CHOSEN_BACKBONES["cpu"], CHOSEN_BACKBONES["gpu"]
"""For CPUs and for GPUs. Both have a feature pyramid."""
SELECTIVE_SEARCH = "selective_search"
LEAST_SCALE = 256
SIDE_P10, SIDE_P50 = 24, 48
"""Pixels in the model frame that a small and a median object shall have."""
SCALE_STEP = 32
"""Scales are multiples of it: the network pads images to them (`fastrcnn.transform.PAD_MULTIPLE`)."""
GPU_FACTOR = 2
"""On a GPU the three numbers of pixels above are twice as large, because its time is cheap."""
CPU_FC_DIM, CPU_ROIS, MOST_ROIS = 256, 64, 512
NEAR, CROWDED = 0.4, 0.02
"""Suppression at IoU `NEAR`, unless this share of the objects or more has a neighbour above it."""
SHARED_BOXES = 0.005
"""An object has one class, unless this share of the objects or more shares a box with another class. Labels
that were drawn twice stay below it."""
DETECTIONS = 100
"""Detections of an image, unless the labels have images with half as many objects or more."""


def wanted_sides(*, on_gpu: bool) -> tuple[int, int]:
    """Return the sides in the model frame that a small and a median object shall have, pixels."""
    factor = GPU_FACTOR if on_gpu else 1
    return factor * SIDE_P10, factor * SIDE_P50


def choose(situation: Situation) -> tuple[Choice, ...]:
    """Choose all that no flag gives. The same situation always gives the same choices."""
    known: dict[str, Any] = dict(situation.given)
    if situation.proposals is not None:
        known["proposals"] = situation.proposals
    choices: list[Choice] = []
    for part in (_proposals, _backbone, _model, solver_choices):
        for choice in part(situation, known):
            if choice.name not in known:
                known[choice.name] = choice.value
                choices.append(choice)
    return tuple(choices)


# --- proposals and backbone ------------------------------------------------------------------------------


def _proposals(at: Situation, known: Mapping[str, Any]) -> Iterator[Choice]:
    excluding = _excludes_rpn(known)
    if at.proposal_mode not in PROPOSER_SPECS[LEARNED].modes:
        modes = {name: spec.modes for name, spec in PROPOSER_SPECS.items()}
        name = next((n for n in modes if at.proposal_mode in modes[n]), SELECTIVE_SEARCH)
        yield Choice("proposals", name, f"--proposal-mode {at.proposal_mode} is one of its modes")
    elif excluding:
        yield Choice("proposals", SELECTIVE_SEARCH, f"{excluding} excludes a learned proposer")
    else:
        reason = "learned from the labels; it covers small and unusual objects that others miss"
        yield Choice("proposals", LEARNED, reason)


def _excludes_rpn(known: Mapping[str, Any]) -> str | None:
    """Return the flag that excludes an RPN, None if no flag does."""
    neutral: Mapping[str, Collection[Any]] = {
        "model.pyramid": ((),),
        "model.train_nms": (None,),
        "solver.trained": ("all",),
    }
    for name, values in neutral.items():
        if name in known and known[name] not in values:
            return flag_of(name, known[name])
    rois, share = known.get("model.rois_per_image"), known.get("model.fg_fraction", 0.25)
    if rois is not None and rois * share < 1:
        return flag_of("model.rois_per_image", rois)
    return None


def _backbone(at: Situation, known: Mapping[str, Any]) -> Iterator[Choice]:
    for name, value in at.weights_tell.items():
        yield Choice(name, value, "the file of --weights is made for it")
    if at.on_gpu:
        yield Choice("model.backbone", LARGE_BACKBONE, f"a GPU trains it ({at.device.where})")
    else:
        yield Choice("model.backbone", SMALL_BACKBONE, f"small enough for CPUs ({at.device.where})")


# --- numbers of the model --------------------------------------------------------------------------------


def _model(at: Situation, known: Mapping[str, Any]) -> Iterator[Choice]:
    labels = at.labels
    backbone, tile = str(known["model.backbone"]), known.get("model.tile")
    scale = None if known.get("model.pyramid") else scale_for(at, backbone, tile)
    if scale is not None:
        yield scale
    if at.auto_tile:
        yield _tile(at, known)
    yield _rois(at)
    spec = BACKBONE_SPECS.get(str(known["model.backbone"]))
    if not at.on_gpu and spec is not None and spec.fc is None:
        yield Choice("model.fc_dim", CPU_FC_DIM, "a wider head takes most of a CPU's time")
    share = (
        f"{labels.neighbours:.1%} of the objects overlap another one of their class by IoU > {NEAR}"
    )
    if labels.neighbours < CROWDED:
        reason = f"{share}, less than {CROWDED:.0%}, so a lower threshold removes second boxes"
        yield Choice("model.nms_threshold", NEAR, reason)
    else:
        yield Choice("model.nms_threshold", 0.5, f"{share}, and a lower threshold would lose them")
    calibrates = known.get("model.calibrate", True) and known.get("model.classifier") != "svm"
    if calibrates and labels.num_classes > 1 and labels.shared_boxes < SHARED_BOXES:
        reason = (
            f"{labels.shared_boxes:.1%} of the objects share a box with another class (IoU >"
            f" {ONE_CLASS_IOU}), so a second class on an object gets what the first leaves of 1"
        )
        yield Choice("model.one_class_iou", ONE_CLASS_IOU, reason)
    if 2 * labels.most_objects > DETECTIONS:
        reason = f"twice the {labels.most_objects} objects of the fullest image"
        yield Choice("model.detections_per_image", 2 * labels.most_objects, reason)
    yield from _augmentation(at)


def _tile(at: Situation, known: Mapping[str, Any]) -> Choice:
    """Choose the side of the tiles for --tile auto. None: nothing is gained with tiles."""
    numbers = {
        name.removeprefix("model."): known[name]
        for name in ("model.backbone", "model.scale", "model.max_size")
        if name in known
    }
    if "scale" in numbers:
        numbers.setdefault("max_size", max_size_of(numbers["scale"]))
    model = FastRCNNConfig.modern(1, **numbers)
    tile = choose_tile(at.labels, model.scale, model.max_size, wanted_sides(on_gpu=at.on_gpu))
    return Choice("model.tile", tile.side, tile.reason)


def scale_for(at: Situation, backbone: str, tile: int | None = None) -> Choice | None:
    """Choose the scale: large enough for the objects, not larger than the images or the preset's scale.

    With tiles, these are the images.

    None: the size of no image is known, and the preset's scale is used.
    """
    labels = at.labels
    if backbone not in BACKBONE_SPECS or labels.short_side is None:
        return None
    if not labels.side_p10 or not labels.side_p50:
        return None
    (p10, p50), least = (
        wanted_sides(on_gpu=at.on_gpu),
        LEAST_SCALE * (GPU_FACTOR if at.on_gpu else 1),
    )
    short_side = min(labels.short_side, tile or labels.short_side)
    larger = labels.short_side / short_side
    side_p10, side_p50 = min(larger * labels.side_p10, 1.0), min(larger * labels.side_p50, 1.0)
    wanted = max(least, p10 / side_p10, p50 / side_p50)
    rounded = SCALE_STEP * math.ceil(wanted / SCALE_STEP - 1e-9)
    preset = FastRCNNConfig.modern(1, backbone=backbone).scale
    sides = f"{side_p10:.1%} (smallest tenth) and {side_p50:.1%} (median)"
    what = "image side" if short_side == labels.short_side else "side of a tile"
    reason = (
        f"the objects' sides are {sides} of the shorter {what}, and shall have {p10} and"
        f" {p50} px; {least} px or more"
    )
    seen = "images" if short_side == labels.short_side else "tiles"
    limits = {
        f"the {seen} have {short_side} px": max(short_side, SCALE_STEP),
        f"the preset has {preset}": preset,
    }
    why, limit = min(limits.items(), key=lambda pair: pair[1])
    if rounded <= limit:
        return Choice("model.scale", rounded, reason)
    return Choice("model.scale", limit, f"{reason} would be {rounded}, but {why}")


def _rois(at: Situation) -> Choice:
    if at.on_gpu:
        return Choice("model.rois_per_image", MOST_ROIS, "the modern preset's, on a GPU")
    objects = at.labels.objects_p75
    rois = CPU_ROIS
    while rois < MOST_ROIS and rois / 4 < objects:
        rois *= 2
    reason = f"enough on a CPU: three quarters of the images have at most {objects} objects"
    return Choice("model.rois_per_image", rois, reason)


def _augmentation(at: Situation) -> Iterator[Choice]:
    pair = mirrored_pair(at.class_names)
    if pair is not None:
        reason = f"a mirror would make {pair[0]!r} of {pair[1]!r}"
        yield Choice("model.horizontal_flips", False, reason)
    reason = (
        "labels do not say whether images may be upside down. If they may (cells, aerial photographs), give"
        " True, and --model.quarter-turns True"
    )
    yield Choice("model.vertical_flips", False, reason)


def mirrored_pair(class_names: Sequence[str]) -> tuple[str, str] | None:
    """Return two classes whose names differ only by left and right; None if there are none.

    Example:
        ["left arrow", "right arrow"] gives both; ["left-hand drive", "bus"] gives None.
    """
    names = {name.lower(): name for name in class_names}
    for lower, name in names.items():
        other = names.get(lower.replace("left", "right"))
        if "left" in lower and other is not None:
            return name, other
    return None
