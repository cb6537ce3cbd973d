"""Tests of the choices that follow from labels and device."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pipeline.training.label_statistics import LabelStatistics
from pipeline.training.recipe import choose
from pipeline.training.situation import Choice, Device, Situation

LABELS = LabelStatistics(
    num_images=205,
    num_objects=2000,
    num_classes=3,
    side_p10=0.17,
    side_p50=0.22,
    short_side=480,
    long_side=640,
    objects_p75=14,
    most_objects=30,
    neighbours=0.015,
    shared_boxes=0.001,
)
CPU, GPU = Device(kind="cpu", where="here"), Device(kind="gpu", where="here")


def choices(
    labels: dict[str, Any] | None = None, device: Device = CPU, **changes: Any
) -> dict[str, Choice]:
    measured = replace(LABELS, **(labels or {}))
    situation = Situation(labels=measured, device=device, **changes)
    return {choice.name: choice for choice in choose(situation)}


def values(*names: str, **changes: Any) -> list[Any]:
    chosen = choices(**changes)
    return [chosen[name].value if name in chosen else None for name in names]


def test_blood_cells_on_a_cpu() -> None:
    assert {name: choice.value for name, choice in choices().items()} == {
        "proposals": "rpn",
        "model.backbone": "mobilenet_v2",
        "model.scale": 256,
        "model.rois_per_image": 64,
        "model.fc_dim": 256,
        "model.nms_threshold": 0.4,
        "model.one_class_iou": 0.6,
        "model.vertical_flips": False,
        "solver.batch_size": 2,
        "solver.iterations": 1230,  # 12 * 205 / 2
        "solver.optimizer": "adamw",
        "solver.learning_rate": 2e-4,
        "solver.warmup": 123,
        "solver.best_by": "map50_95",
        "solver.schedule": "cosine",
    }


def test_a_gpu_trains_a_larger_network_on_more_and_larger_images() -> None:
    names = ("backbone", "rois_per_image", "fc_dim", "scale")
    numbers = [f"model.{name}" for name in names]
    assert values(*numbers, device=GPU) == ["resnet50_fpn", 512, None, 480]  # the images have 480
    found = values("solver.batch_size", "solver.iterations", "solver.learning_rate", device=GPU)
    assert found == [8, 750, 2e-4]  # 205 / 16 < 25 <= 205 / 8; 250 for each of 3 classes


@pytest.mark.parametrize(
    ("images", "batch"), [(1, 2), (49, 2), (100, 4), (200, 8), (400, 16), (9999, 16)]
)
def test_the_batch_of_a_gpu_suits_the_number_of_images(images: int, batch: int) -> None:
    found = values("solver.batch_size", labels={"num_images": images}, device=GPU)
    assert found == [batch]


@pytest.mark.parametrize(("workers", "batch"), [(1, 2), (2, 2), (3, 3), (5, 5)])
def test_a_batch_is_a_multiple_of_the_workers(workers: int, batch: int) -> None:
    assert values("solver.batch_size", num_workers=workers) == [batch]


@pytest.mark.parametrize(
    ("labels", "scale"),
    [
        ({"side_p10": 0.045, "side_p50": 0.054, "short_side": 1500}, 600),  # 889: the preset's
        ({"side_p10": 0.045, "side_p50": 0.054, "short_side": 500}, 500),  # the images'
        ({"side_p10": 0.13, "side_p50": 0.17}, 288),  # 48 / .17 = 282
        ({"side_p10": 0.06, "side_p50": 0.2}, 416),  # 24 / .06 = 400
        ({"side_p10": 0.5, "side_p50": 0.9}, 256),
        ({"side_p10": 0.5, "side_p50": 0.9, "short_side": 64}, 64),
        ({"side_p10": 0.5, "side_p50": 0.9, "short_side": 8}, 32),
        ({"side_p10": 24 / 320, "side_p50": 1.0}, 320),  # exact: not rounded up
        ({"side_p10": None, "side_p50": None, "short_side": None}, None),
    ],
)
def test_the_scale_suits_the_objects_and_the_images(
    labels: dict[str, Any], scale: int | None
) -> None:
    assert values("model.scale", labels=labels) == [scale]


@pytest.mark.parametrize(
    ("labels", "steps"),
    [
        ({"num_images": 10, "num_classes": 1}, 600),
        ({"num_images": 56, "num_classes": 20}, 5000),
        ({"num_images": 1000, "num_classes": 2}, 6000),
        ({"num_images": 118_000, "num_classes": 80}, 90_000),
    ],
)
def test_the_number_of_steps_suits_images_and_classes(labels: dict[str, Any], steps: int) -> None:
    assert values("solver.iterations", labels=labels) == [steps]


def test_the_warm_up_is_a_tenth_of_a_given_length_too() -> None:
    given = {"solver.epochs": 4.0}
    assert values("solver.iterations", "solver.warmup", given=given) == [None, 41]
    assert values("solver.warmup", given={"solver.iterations": 9000}) == [500]
    assert values("solver.iterations", "solver.warmup", minutes=3.0) == [None, 500]


def test_objects_that_touch_keep_the_higher_threshold() -> None:
    found = choices(labels={"neighbours": 0.145})["model.nms_threshold"]
    assert found.value == 0.5
    assert "14.5%" in found.reason
    assert values("model.nms_threshold", labels={"neighbours": 0.02}) == [0.5]


def test_an_object_has_one_class_unless_labels_say_otherwise() -> None:
    assert "0.1%" in choices()["model.one_class_iou"].reason
    assert values("model.one_class_iou", labels={"shared_boxes": 0.005}) == [None]
    assert values("model.one_class_iou", labels={"num_classes": 1}) == [None]
    for given in ({"model.calibrate": False}, {"model.classifier": "svm"}):
        assert values("model.one_class_iou", given=given) == [None]


def test_images_full_of_objects_get_more_rois_and_detections() -> None:
    names = ("model.rois_per_image", "model.detections_per_image")
    assert values(*names, labels={"objects_p75": 17, "most_objects": 51}) == [128, 102]
    assert values(*names, labels={"objects_p75": 900, "most_objects": 50}) == [512, None]


def test_what_flags_give_is_not_chosen_and_the_rest_follows_from_it() -> None:
    given = {"solver.batch_size": 4, "model.backbone": "vgg16", "model.nms_threshold": 0.3}
    given |= {"solver.optimizer": "sgd"}
    chosen = choices(given=given, proposals="grid")
    assert not {*given, "proposals", "model.fc_dim"} & set(chosen)  # vgg16 has a published fc6
    assert chosen["solver.iterations"].value == 750
    assert chosen["solver.learning_rate"].value == 0.005  # .02 * 4 / 16


@pytest.mark.parametrize(
    ("given", "optimizer", "rate"),
    [
        ({"solver.momentum": 0.8}, "sgd", 0.0025),
        ({"solver.caffe_momentum": False}, "adamw", 2e-4),
        ({"solver.learning_rate": 0.01}, "sgd", None),
        ({"solver.learning_rate": 0.0005}, "adamw", None),
        ({"solver.batch_size": 1}, "adamw", pytest.approx(2e-4 / 2**0.5)),
    ],
)
def test_numbers_of_sgd_choose_sgd(given: dict[str, Any], optimizer: str, rate: Any) -> None:
    assert values("solver.optimizer", "solver.learning_rate", given=given) == [optimizer, rate]


@pytest.mark.parametrize(
    ("changes", "proposals", "reason"),
    [
        ({"proposal_mode": "small"}, "selective_search", "--proposal-mode small"),
        ({"proposal_mode": "quality"}, "opencv", "--proposal-mode quality"),
        ({"proposal_mode": "unfitted"}, "grid", "--proposal-mode unfitted"),
        ({"given": {"model.pyramid": (480, 576)}}, "selective_search", "--model.pyramid 480 576"),
        ({"given": {"solver.trained": "bbox_pred"}}, "selective_search", "--solver.trained"),
        ({"given": {"model.train_nms": 0.7}}, "selective_search", "--model.train-nms 0.7"),
        ({"given": {"model.rois_per_image": 2}}, "selective_search", "--rois-per-image 2"),
        ({"given": {"model.train_nms": None}}, "rpn", "learned"),
    ],
)
def test_flags_that_exclude_a_learned_proposer_lead_to_another(
    changes: dict[str, Any], proposals: str, reason: str
) -> None:
    chosen = choices(**changes)["proposals"]
    assert chosen.value == proposals
    assert reason in chosen.reason


def test_a_pyramid_gets_no_scale() -> None:
    assert values("model.scale", given={"model.pyramid": (480, 576)}) == [None]


def test_a_file_of_weights_decides_on_the_backbone() -> None:
    chosen = choices(weights_tell={"model.backbone": "squeezenet", "model.fc_dim": 96}, device=GPU)
    assert (chosen["model.backbone"].value, chosen["model.fc_dim"].value) == ("squeezenet", 96)
    assert "--weights" in chosen["model.backbone"].reason


def test_each_choice_has_one_line_with_its_flag_and_reason() -> None:
    for choice in choices().values():
        assert str(choice) == f"{choice.flag}: {choice.reason}"
        assert "\n" not in str(choice)
    assert choices()["model.scale"].flag == "--scale 256"
    assert choices()["model.nms_threshold"].flag == "--model.nms-threshold 0.4"
    assert choices()["proposals"].flag == "--proposals rpn"


@pytest.mark.parametrize(
    ("names", "flips"),
    [
        (("left arrow", "right arrow"), False),
        (("TurnRight", "stop", "TurnLeft"), False),
        (("left", "up"), None),
        (("bright", "dark"), None),
        (("cleft", "leaf"), None),
    ],
)
def test_classes_that_a_mirror_exchanges_are_not_mirrored(
    names: tuple[str, ...], flips: bool | None
) -> None:
    assert values("model.horizontal_flips", class_names=names) == [flips]
