"""Tests of a training step: the number of passes does not matter; a non-finite loss changes no weight."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from fastrcnn.config import FastRCNNConfig, RPNConfig, SolverConfig
from fastrcnn.loss import Objective, Target
from fastrcnn.model import FastRCNN
from fastrcnn.solver import build_optimizer, freeze_untrained
from pipeline.training.examples import Batch
from pipeline.training.step import NonFiniteLossError, StepSettings, model_of, train_step

SOLVER = SolverConfig.paper(learning_rate=0.05, iterations=4, batch_size=4)
SETTINGS = StepSettings(solver=SOLVER, num_iterations=4, seed=0)


def batch(images: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(1)
    pixels = [
        torch.randint(0, 256, (64, 64, 3), dtype=torch.uint8, generator=generator)
        for _ in range(images)
    ]
    targets = []
    for index in range(images):
        corners = torch.rand(30, 2, generator=generator) * 30
        proposals = torch.cat([corners, corners + 25], dim=1)
        targets.append(Target(proposals, proposals[: index + 1], torch.ones(index + 1).long()))
    return Batch(pixels, targets, list(range(images)), [f"{n}.png" for n in range(images)])


def build(**changes: Any) -> FastRCNN:
    torch.manual_seed(0)
    numbers: dict[str, Any] = {"fc_dim": 16, "scale": 64, "dropout": 0.0, "rois_per_image": 16}
    return FastRCNN(FastRCNNConfig.paper(1, backbone="tiny", **(numbers | changes)))


def step(solver: SolverConfig, **changes: Any) -> tuple[FastRCNN, dict[str, float]]:
    model = build(**changes)
    freeze_untrained(model, solver)
    optimizer = build_optimizer(model, solver)
    row = train_step(Objective(model), optimizer, batch(), 0, replace(SETTINGS, solver=solver))
    return model, row


RPN = RPNConfig(sides=((12.0, 24.0),), ratios=(1.0,), anchors_per_image=32)


@pytest.mark.parametrize("rpn", [None, RPN])
@pytest.mark.parametrize("images_per_pass", [1, 2, 3])
def test_passes_add_up_to_one_step(images_per_pass: int, rpn: RPNConfig | None) -> None:
    whole, row = step(SOLVER, rpn=rpn)
    parts, again = step(replace(SOLVER, images_per_pass=images_per_pass), rpn=rpn)
    assert again == pytest.approx(row, rel=1e-4)
    for (name, a), b in zip(whole.named_parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=name)


ADAMW: dict[str, Any] = {
    "optimizer": "adamw",
    "caffe_momentum": False,
    "learning_rate": 1e-4,
    "weight_decay": 0.05,
}
CASES: dict[str, tuple[SolverConfig, dict[str, Any]]] = {
    "one pass": (SOLVER, {}),
    "a pass an image": (replace(SOLVER, images_per_pass=1), {}),
    "rpn": (SOLVER, {"rpn": RPN}),
    "rpn, a pass an image": (replace(SOLVER, images_per_pass=1), {"rpn": RPN}),
    "adamw": (replace(SOLVER, **ADAMW), {}),
    "adamw, layer decay": (replace(SOLVER, **ADAMW, layer_decay=0.7), {"rpn": RPN}),
    "few rois": (SOLVER, {"rois_per_image": 64, "bg_iou": (0.49, 0.5)}),
}


def _steps_of_a_rank(rank: int, folder: str) -> None:
    """Take one step of each case as one of two ranks: rank 0 has one image, rank 1 three."""
    torch.set_num_threads(1)
    address = f"file://{folder}/rendezvous"
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    share = slice(0, 1) if rank == 0 else slice(1, 4)
    whole = batch()
    part = Batch(
        whole.images[share], whole.targets[share], whole.seeds[share], whole.image_uris[share]
    )
    results = {}
    for name, (solver, changes) in CASES.items():
        model = build(**changes)
        optimizer = build_optimizer(model, solver)
        settings = replace(SETTINGS, solver=solver, rank=rank, world_size=2)
        wrapped = DistributedDataParallel(Objective(model))
        assert model_of(wrapped) is model
        row = train_step(wrapped, optimizer, part, 0, settings)
        results[name] = row, model.state_dict(), [p.grad for p in model.parameters()]
    torch.save(results, f"{folder}/rank-{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_workers_get_the_gradients_of_one_worker_with_all_images(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_steps_of_a_rank, (str(tmp_path),), nprocs=2)
    ranks = [torch.load(tmp_path / f"rank-{rank}.pt") for rank in (0, 1)]
    for name, (solver, changes) in CASES.items():
        model, row = step(solver, **changes)
        for again, weights, gradients in (results[name] for results in ranks):
            assert again == pytest.approx(row, rel=1e-6)
            for p, gradient in zip(model.parameters(), gradients, strict=True):
                torch.testing.assert_close(gradient, p.grad, rtol=1e-5, atol=1e-6, msg=name)
            torch.testing.assert_close(weights, dict(model.state_dict()), rtol=1e-6, atol=1e-6)
        for a, b in zip(ranks[0][name][2], ranks[1][name][2], strict=True):
            assert (a is None) == (b is None)
            assert a is None or torch.equal(a, b)


def test_only_an_objective_can_be_trained() -> None:
    model = build()
    with pytest.raises(TypeError, match="expected an Objective or DDP around one, not FastRCNN"):
        train_step(model, build_optimizer(model, SOLVER), batch(), 0, SETTINGS)


def test_the_gradient_is_averaged_over_the_sampled_rois() -> None:
    """With twice the RoIs requested and the same RoIs sampled, the step is the same."""
    few, row = step(SOLVER, rois_per_image=64, bg_iou=(0.49, 0.5), fg_fraction=1.0)
    more, again = step(SOLVER, rois_per_image=128, bg_iou=(0.49, 0.5), fg_fraction=1.0)
    assert row["rois"] == again["rois"] < 4 * 64
    for a, b in zip(few.parameters(), more.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_rpn_losses_are_means_over_images_and_part_of_the_loss() -> None:
    _, row = step(SOLVER, rpn=RPN)
    assert row["loss"] == pytest.approx(
        sum(row[n] for n in ("classification", "localization", "loss_objectness", "loss_rpn_box"))
    )
    assert row["loss_objectness"] == pytest.approx(
        math.log(2), rel=0.05
    )  # untrained: each probability is about 1/2
    assert row["loss_rpn_box"] > 0
    moved = {name for name, p in step(SOLVER, rpn=RPN)[0].named_parameters() if p.grad is not None}
    assert {name for name in moved if name.startswith("rpn.")} == {
        f"rpn.head.{layer}.{part}"
        for layer in ("conv.0.0", "cls_logits", "bbox_pred")
        for part in ("weight", "bias")
    }


def test_the_number_of_sampled_rois_does_not_change_the_rpn_gradient() -> None:
    """With few RoIs, the head's gradient is not scaled up, because that would scale the RPN's gradient
    too."""
    few = {"rpn": RPN, "bg_iou": (0.49, 0.5)}
    one, row = step(SOLVER, rois_per_image=16, **few)
    other, again = step(SOLVER, rois_per_image=64, **few)
    assert row["rois"] < 4 * 16
    assert row["loss_objectness"] == again["loss_objectness"]
    assert one.rpn is not None
    assert other.rpn is not None
    for a, b in zip(
        one.rpn.head.cls_logits.parameters(), other.rpn.head.cls_logits.parameters(), strict=True
    ):
        torch.testing.assert_close(a.grad, b.grad)


def test_an_rpn_learns_background_from_images_without_objects() -> None:
    """With the paper's numbers such images have no RoI: background needs an IoU of at least .1 with an
    object."""
    model = build(rpn=RPN)
    given = batch()
    targets = [Target(t.proposals, torch.zeros(0, 4), torch.zeros(0).long()) for t in given.targets]
    empty = Batch(given.images, targets, given.seeds, given.image_uris)
    optimizer = build_optimizer(model, SOLVER)
    row = train_step(Objective(model), optimizer, empty, 0, SETTINGS)
    assert (row["rois"], row["loss_rpn_box"]) == (0, 0)
    assert row["loss"] == row["loss_objectness"] == pytest.approx(math.log(2), rel=0.05)
    assert model.rpn is not None
    gradient = model.rpn.head.cls_logits.bias.grad
    assert gradient is not None
    assert bool((gradient > 0).all())  # a step lowers the objectness


def test_a_second_stage_changes_only_the_box_layer() -> None:
    before = build()
    after, _ = step(replace(SOLVER, trained="bbox_pred"))
    moved = {
        name
        for (name, a), b in zip(before.named_parameters(), after.parameters(), strict=True)
        if not torch.equal(a, b)
    }
    assert moved == {"head.bbox_pred.weight", "head.bbox_pred.bias"}


def test_a_non_finite_loss_names_the_images_and_changes_no_weight() -> None:
    torch.manual_seed(0)
    model = FastRCNN(FastRCNNConfig.paper(1, backbone="tiny", fc_dim=16, scale=64))
    with torch.no_grad():
        model.head.cls_score.bias[0] = torch.inf
    before = {k: v.clone() for k, v in model.state_dict().items()}
    optimizer = build_optimizer(model, SOLVER)
    with pytest.raises(NonFiniteLossError, match=r"step 2 .*0\.png, 1\.png"):
        train_step(Objective(model), optimizer, batch(2), 2, SETTINGS)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("able", [True, False])
def test_mixed_precision_uses_bfloat16_if_the_device_multiplies_it(
    able: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.training.step.multiplies_bfloat16", lambda _: able)
    plain, row = step(SOLVER, rpn=RPN)
    mixed, again = step(replace(SOLVER, mixed_precision=True), rpn=RPN)
    assert (again == row) != able
    assert again == pytest.approx(row, rel=0.02)
    for a, b in zip(plain.parameters(), mixed.parameters(), strict=True):
        assert b.dtype == torch.float32
        torch.testing.assert_close(b, a, rtol=0.1, atol=5e-3)


@pytest.mark.parametrize(("hardware", "expected"), [(True, "tf32"), (False, "ieee")])
def test_a_step_in_float32_computes_without_tf32_forward_and_backward(
    hardware: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    backward = torch.autograd.backward

    def look(*args: Any) -> None:
        seen.append(torch.backends.cudnn.conv.fp32_precision)
        backward(*args)

    monkeypatch.setattr("pipeline.training.step.multiplies_bfloat16", lambda _: hardware)
    monkeypatch.setattr(torch.autograd, "backward", look)
    step(replace(SOLVER, mixed_precision=True))
    assert seen == [expected]
