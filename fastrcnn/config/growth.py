"""How configs gain fields without changing the hashes of configs that lack them.

The names of runs and caches contain a hash of a config's numbers. Every field that a config had on 2026-11-29
is hashed, whatever its value. A field that was added later is hashed only if its value differs from the
value that means "as before". The tables below hold this value. It never changes, even if the default of the
field does.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from functools import cache
from typing import Any, get_args, get_type_hints

FIRST: Mapping[str, frozenset[str]] = {
    "ProposalConfig": frozenset(
        ("name", "mode", "max_boxes", "min_size", "seed", "max_side", "k", "strategies", "shapes")
    ),
    "RPNConfig": frozenset(
        ("sides", "ratios", "fg_iou", "bg_iou", "anchors_per_image", "fg_fraction", "pre_nms_train")
        + ("pre_nms_test", "nms", "max_proposals_train", "max_proposals_test")
    ),
    "FastRCNNConfig": frozenset(
        ("num_classes", "backbone", "frozen_stages", "frozen_norm", "pooling", "pool_size")
        + ("fc_dim", "fc7_dim", "fc6_rank", "fc7_rank", "dropout", "scale", "max_size", "pyramid")
        + ("rois_per_image", "train_scales", "vertical_flips", "quarter_turns", "color_jitter")
        + ("train_nms", "fg_fraction", "fg_iou", "bg_iou", "beta", "box_weight", "class_agnostic")
        + ("delta_std", "test_flips", "test_scales", "box_regression", "classifier")
        + ("proposal_nms", "score_threshold", "nms_threshold", "detections_per_class")
        + ("detections_per_image", "rpn")
    ),
    "SolverConfig": frozenset(
        ("learning_rate", "batch_size", "iterations", "epochs", "schedule", "drops", "gamma")
        + ("momentum", "caffe_momentum", "weight_decay", "bias_rate", "bias_decay", "warmup")
        + ("max_grad_norm", "mixed_precision", "images_per_pass", "compile", "deterministic")
        + ("trained",)
    ),
}
"""The fields of 2026-11-29, by the name of the config. Do not add to it: a new field goes into `LATER`."""

LATER: Mapping[str, Mapping[str, Any]] = {
    "ProposalConfig": {},
    "RPNConfig": {
        "extra_level": False,
        "torchvision_anchors": False,
        "convs": 1,
        "score_threshold": 0.0,
    },
    "FastRCNNConfig": {
        "horizontal_flips": True,
        "crop_jitter": None,
        "aligned": True,
        "head_convs": 0,
        "resize": "round",
        "calibrate": False,
        "calibration": None,
        "tile": None,
        "tile_overlap": 0.2,
        "whole_share": 0.2,
        "one_class_iou": None,
    },
    "SolverConfig": {
        "optimizer": "sgd",
        "betas": (0.9, 0.999),
        "layer_decay": 1.0,
        "ema_decay": None,
        "repeat_threshold": 0.0,
        "patience": None,
        "best_by": "voc07",
    },
}
"""Each field that was added later, with its value that means "as before"."""


def values_to_hash(config: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Select the values of a config that are hashed, and those of the configs in it.

    Args:
        config: the class of the config, e.g. `FastRCNNConfig`.
        values: `dataclasses.asdict` of a config, or the JSON object that a checkpoint holds. A field that is
            missing there stays missing.

    Example:
        If `ProposalConfig` had a later field `overlap` with "as before" 0, values_to_hash(ProposalConfig,
        {"name": "grid", "overlap": 0}) would be {"name": "grid"}.
    """
    as_before = {**_defaults(config), **LATER[config.__name__]}
    selected = drop_as_before(values, FIRST[config.__name__], as_before)
    for name, kind in _nested(config).items():
        if isinstance(selected.get(name), Mapping):
            selected[name] = values_to_hash(kind, selected[name])
    return selected


def drop_as_before(
    values: Mapping[str, Any], first: Collection[str], as_before: Mapping[str, Any]
) -> dict[str, Any]:
    """Drop the values that mean "as before".

    Args:
        values: the values by name.
        first: names that are kept in any case.
        as_before: the value of each other name that means "as before". A name without one is kept.
    """
    return {
        name: value
        for name, value in values.items()
        if name in first or name not in as_before or not _equal(value, as_before[name])
    }


def fill_later_fields(config: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Add each later field, set to "as before", to the values that an earlier version wrote."""
    return {**LATER[config.__name__], **values}


def as_tuples(value: Any) -> Any:
    """Turn the lists in a value into tuples, which JSON does not have."""
    return tuple(map(as_tuples, value)) if isinstance(value, list | tuple) else value


def _defaults(config: type) -> dict[str, Any]:
    """Give the default of each field. It means "as before" for a field that is in neither table above."""
    from_factory = {
        f.name: f.default_factory() for f in fields(config) if f.default_factory is not MISSING
    }
    return from_factory | {f.name: f.default for f in fields(config) if f.default is not MISSING}


def _as_dict(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def _equal(value: Any, other: Any) -> bool:
    """Compare two values as JSON writes them: a config equals its dictionary, and nan equals nan."""
    texts = [json.dumps(_as_dict(item), sort_keys=True, default=str) for item in (value, other)]
    return texts[0] == texts[1]


@cache
def _nested(config: type) -> dict[str, type]:
    """Find the fields that hold another config, and its class."""
    return {
        name: kind
        for name, hint in get_type_hints(config).items()
        for kind in (hint, *get_args(hint))
        if isinstance(kind, type) and is_dataclass(kind)
    }
