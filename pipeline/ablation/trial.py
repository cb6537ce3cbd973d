"""Run one trial of an ablation in one process: a training and its tests. Ray Train is not used."""

from __future__ import annotations

import json
import logging
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fastrcnn.averaging import WeightAverage, load_weights
from fastrcnn.checkpoint import save_checkpoint
from fastrcnn.loss import Objective, Target
from fastrcnn.metrics import evaluate_coco
from fastrcnn.metrics.recall import proposal_recall
from fastrcnn.model import FastRCNN, with_config
from fastrcnn.solver import build_optimizer, freeze_untrained
from fastrcnn.svd import compress
from fastrcnn.tiled_detection import propose_tiled
from pipeline import storage
from pipeline.ablation.config import AblateConfig, Test, Training
from pipeline.ablation.torchvision_heads import TorchvisionHeads
from pipeline.images import decode
from pipeline.proposals.table import Boxes
from pipeline.runtime.prefetch import prefetch
from pipeline.storage import checkpoints
from pipeline.training.examples import Batch, Example, load_batch, target_of
from pipeline.training.initial_weights import initial_model, measure_deltas
from pipeline.training.order import ImageOrder, image_order
from pipeline.training.plan import TrainPlan
from pipeline.training.step import StepSettings, train_step
from pipeline.training.stored_run import read_object
from pipeline.training.validation import Detect, detector_of, ground_truth, validate

logger = logging.getLogger(__name__)

RESULT = "result.json"
Network = FastRCNN | TorchvisionHeads

RECALL_AT = 300
"""Proposals per image for the recall (as in Ren et al. 2015)."""
TIMED_IMAGES = 20
"""Number of images that are detected one by one to measure the time per image (the paper's s/im)."""


def folder_of(config: AblateConfig, training: Training) -> str:
    """Give the URI of a trial's folder: checkpoint and result.json, which is written last.

    A trial with torchvision's heads has no checkpoint.
    """
    return storage.join(config.output, "trials", training.name)


def read_result(config: AblateConfig, training: Training) -> dict[str, Any] | None:
    """Read the result of `run_trial`; None if the trial is not finished."""
    uri = storage.join(folder_of(config, training), RESULT)
    return read_object(uri) if storage.exists(uri) else None


def run_trial(
    config: AblateConfig,
    training: Training,
    tests: Sequence[Test],
    classes: Sequence[str],
    examples: Sequence[Example],
    test_examples: Sequence[Example],
) -> dict[str, Any]:
    """Train, run the tests, and write checkpoint and result.json.

    Returns:
        step_seconds (median), iterations, recall and average_recall of the best proposals of the test images,
        and `tests`: for each test by name map, ap and image_seconds (median).

    Raises:
        NonFiniteLossError, StorageError, ImageError: the trial failed.
    """
    plan = TrainPlan.of(config.training(training), classes).fitted([e.image for e in examples])
    if plan.model.tile is None:  # with tiles, each tile has this number of proposals
        num_proposals = training.max_proposals or config.max_proposals
        examples = [replace(e, proposals=e.proposals[:num_proposals]) for e in examples]
        test_examples = [replace(e, proposals=e.proposals[:num_proposals]) for e in test_examples]
    folder = folder_of(config, training)
    network: Network
    result: dict[str, Any]
    earlier = read_result(config, training)
    if earlier and not training.torchvision_heads:
        network = checkpoints.load(folder).model  # only new tests are missing
        result = earlier
    else:
        model = _initial_model(config, training, plan, classes, examples)
        network = TorchvisionHeads(model) if training.torchvision_heads else model
        result = train_network(network, plan, training.seed, examples)
        if isinstance(network, FastRCNN):
            _save(folder, config, plan, network, classes, result)
        result["tests"] = {}
    if "recall" not in result:
        result |= _recall(network, test_examples)
    for test in tests:
        if test.name in result["tests"]:
            continue
        detector = _detector(network, test, examples)
        validation = validate(detector, len(classes), test_examples)
        metrics = validation.metrics(classes)
        coco = evaluate_coco(
            [ground_truth(e) for e in test_examples], validation.detections, len(classes)
        )
        result["tests"][test.name] = {
            "map": metrics["val_map"],
            "ap": metrics["val_ap"],
            "coco_ap": coco.ap,
            "ap50": coco.ap50,
            "image_seconds": _seconds_per_image(detector, test_examples),
        }
    storage.write_bytes(storage.join(folder, RESULT), json.dumps(result, indent=1).encode())
    return result


def _initial_model(
    config: AblateConfig,
    training: Training,
    plan: TrainPlan,
    classes: Sequence[str],
    examples: Sequence[Example],
) -> FastRCNN:
    """Make the initial model of a training."""
    weights = folder_of(config, training.start) if training.start else config.weights
    model = initial_model(plan.model, weights, training.seed, classes)
    measure_deltas(model, examples)
    freeze_untrained(model, plan.solver)
    return model


def train_network(
    network: Network, plan: TrainPlan, seed: int, examples: Sequence[Example]
) -> dict[str, Any]:
    """Train the network in place. Gives iterations, step_seconds (median) and last_loss (mean of 10
    steps)."""
    optimizer = build_optimizer(network, plan.solver)
    num_iterations = plan.solver.num_iterations(len(examples))
    settings = StepSettings(solver=plan.solver, num_iterations=num_iterations, seed=seed)
    steps = range(num_iterations)
    order = image_order(examples, plan.solver.repeat_threshold, seed)
    load = partial(_load, examples, plan, order)
    if isinstance(network, TorchvisionHeads):
        take_step = network.train_step
    else:
        take_step = partial(train_step, Objective(network))
    decay = plan.solver.ema_decay
    average = None if decay is None else WeightAverage(network, decay)
    seconds, losses = [], []
    for step, batch in zip(steps, prefetch(load, steps, threads=1), strict=True):
        started = time.perf_counter()
        row = take_step(optimizer, batch, step, settings)
        if average is not None:
            average.update(network, step)
        seconds.append(time.perf_counter() - started)
        losses.append(row["loss"])
        if step % max(num_iterations // 10, 1) == 0:
            logger.info("step %d of %d: loss %.3f", step + 1, num_iterations, row["loss"])
    if average is not None:
        load_weights(network, average.weights)
    return {
        "iterations": num_iterations,
        "step_seconds": statistics.median(seconds),
        "last_loss": statistics.fmean(losses[-10:]),
    }


def _load(examples: Sequence[Example], plan: TrainPlan, order: ImageOrder, step: int) -> Batch:
    size, most = plan.solver.batch_size, plan.proposals.max_boxes
    return load_batch(examples, step, size, order.seed, plan.model, order=order, max_proposals=most)


def _detector(network: Network, test: Test, examples: Sequence[Example]) -> Detect:
    """Change the trained network as `test` says, and wrap it for `validate`."""
    if isinstance(network, TorchvisionHeads):
        return network.detect
    model = network.eval()
    if test.svd:
        fc6 = model.head.fc6
        assert isinstance(fc6, torch.nn.Linear)
        fc6_rank, fc7_rank = (max(round(share * fc6.out_features), 1) for share in test.svd)
        model = compress(model, fc6_rank, fc7_rank)
    if test.svm:
        from fastrcnn.svm import (
            with_svms,
        )  # imported here: it needs scikit-learn, an optional package

        pixels, targets = _images_and_targets(examples)
        model = with_svms(model, pixels, targets)
    if not test.box_regression:
        model = with_config(model, box_regression=False)
    return detector_of(model)


def _recall(network: Network, examples: Sequence[Example]) -> dict[str, float]:
    """Measure the recall of the best `RECALL_AT` proposals, at IoU .5 and averaged over .5 to 1.

    It is an upper limit for every head. Crowds and difficult objects are left out.
    """
    proposals = [example.proposals[:RECALL_AT] for example in examples]
    if network.rpn is not None:
        network.eval()
        proposals = [_rpn_proposals(network, example)[:RECALL_AT] for example in examples]
    gt_boxes = [e.image.gt_boxes[~(e.image.crowd | e.image.difficult)] for e in examples]
    measured = proposal_recall(proposals, gt_boxes, (0.5,))
    return {"recall": measured.recalls[0], "average_recall": measured.average_recall}


def _rpn_proposals(network: Network, example: Example) -> Boxes:
    """Give the proposals (P, 4) of the network's RPN, in the image frame, best first."""
    pixels = decode(storage.read_bytes(example.image.image_uri)).pixels
    if isinstance(network, TorchvisionHeads):
        return network.propose(pixels).numpy()
    return propose_tiled(network, [pixels])[0].boxes.cpu().numpy()


def _images_and_targets(examples: Sequence[Example]) -> tuple[list[torch.Tensor], list[Target]]:
    """Decode the training images without augmentation: (H, W, 3) uint8 tensors, and their targets."""
    pixels = [decode(storage.read_bytes(e.image.image_uri)).pixels for e in examples]
    return [torch.from_numpy(p) for p in pixels], [target_of(e) for e in examples]


def _seconds_per_image(detector: Detect, examples: Sequence[Example]) -> float:
    """Measure the median time to detect on one decoded image with given proposals."""
    seconds = []
    for example in examples[:TIMED_IMAGES]:
        pixels = decode(storage.read_bytes(example.image.image_uri)).pixels
        started = time.perf_counter()
        detector([pixels], [example.proposals])
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def _save(
    uri: str,
    config: AblateConfig,
    plan: TrainPlan,
    model: FastRCNN,
    classes: Sequence[str],
    result: dict[str, Any],
) -> None:
    """Write the checkpoint: other trainings start from it, and later runs test it."""
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(
            Path(folder),
            model,
            classes=classes,
            proposals=plan.proposals,
            training={"flags": asdict(config), "result": result},
        )
        checkpoints.put(Path(folder), uri)
