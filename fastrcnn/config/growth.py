"""How configs gain fields without changing the hashes of configs that lack them.

A config's numbers are hashed into the names of runs and caches. Every field that stood in a config on
2026-11-29 is hashed, whatever its value. A field that came later is hashed only where its value differs from
the value that means "as before". That value is written down here once. It never changes, even if the
default of the field does.
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
"""The fields of 2026-11-29, by the name of the config. Add none: a new field goes into `LATER`."""

LATER: Mapping[str, Mapping[str, Any]] = {
    "ProposalConfig": {},
    "RPNConfig": {},
    "FastRCNNConfig": {},
    "SolverConfig": {},
}
"""Each field that came later, and the value that means "as before"."""


def hashed(config: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Select what is hashed of a config and of the configs in it.

    Args:
        config: the class of the config, e.g. `FastRCNNConfig`.
        values: `dataclasses.asdict` of a config, or the JSON object that a checkpoint holds. A field that is
            missing there stays missing.

    Example:
        Had `ProposalConfig` a later field `overlap` with "as before" 0, hashed(ProposalConfig, {"name":
        "grid", "overlap": 0}) would be {"name": "grid"}.
    """
    neutral = {**_defaults(config), **LATER[config.__name__]}
    selected = kept(values, FIRST[config.__name__], neutral)
    for name, kind in _nested(config).items():
        if isinstance(selected.get(name), Mapping):
            selected[name] = hashed(kind, selected[name])
    return selected


def kept(
    values: Mapping[str, Any], first: Collection[str], neutral: Mapping[str, Any]
) -> dict[str, Any]:
    """Drop the values that mean "as before".

    Args:
        values: the values by name.
        first: names that are kept in any case.
        neutral: the value of each other name that means "as before". A name without one is kept.
    """
    return {
        name: value
        for name, value in values.items()
        if name in first or name not in neutral or not _equal(value, neutral[name])
    }


def filled(config: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Add each later field, set to "as before", to the values that an earlier version wrote."""
    return {**LATER[config.__name__], **values}


def as_tuples(value: Any) -> Any:
    """Turn the lists in a value into tuples, which JSON does not have."""
    return tuple(map(as_tuples, value)) if isinstance(value, list | tuple) else value


def _defaults(config: type) -> dict[str, Any]:
    """The default means "as before" for a field that is in neither table above."""
    made = {f.name: f.default_factory() for f in fields(config) if f.default_factory is not MISSING}
    return made | {f.name: f.default for f in fields(config) if f.default is not MISSING}


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def _equal(value: Any, other: Any) -> bool:
    """Compare two values as JSON writes them: a config equals its dictionary, and nan equals nan."""
    texts = [json.dumps(_plain(each), sort_keys=True, default=str) for each in (value, other)]
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
