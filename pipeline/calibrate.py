"""Makes a copy of a checkpoint whose scores are calibrated on labelled images (`fastrcnn.calibration`)."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from fastrcnn.checkpoint import Checkpoint, CheckpointError
from fastrcnn.config import TABLE, ProposalConfig
from fastrcnn.tiles import Tiling
from pipeline import storage
from pipeline.annotations import LabelledImages, read_labelled_images
from pipeline.annotations.rules import LabelRules
from pipeline.config import TrainConfig
from pipeline.config.checks import renames
from pipeline.config.tools import CalibrateConfig
from pipeline.errors import JobError, UserError
from pipeline.images.samples import SampleRules
from pipeline.results.image_matching import find_matches
from pipeline.results.sampled import read_sample
from pipeline.runtime import cluster
from pipeline.runtime.growing import Growth
from pipeline.storage import StorageError, checkpoints
from pipeline.training.calibration import (
    Calibrated,
    calibrate_on,
    detect_on_workers,
    log_calibration,
)
from pipeline.training.data import join_proposals, sample_rules
from pipeline.training.resources import worker_resources

logger = logging.getLogger(__name__)


def run(config: CalibrateConfig) -> Calibrated | None:
    """Write the calibrated checkpoint: first its weights, then its config.

    Returns:
        None for a dry run.

    Raises:
        UserError: the checkpoint is not complete or has an SVM, the output already holds a checkpoint, the
            labels cannot be used, or there is no object or no detection to calibrate on.
        JobError: too many images cannot be read, or the detector fails.
    """
    storage.check_writable(config.output)
    uri = checkpoints.find_checkpoint(config.checkpoint)
    checkpoint = _load(uri)
    checkpoints.check_free(config.output)
    proposals = _proposals(config, checkpoint)
    labelled = _read(config, checkpoint)
    weights = None
    if config.sample is not None:
        labelled, weights = drawn_images(config.sample, labelled)
    logger.info(
        "%d images of %s with %d objects",
        len(labelled.images),
        config.split,
        sum(len(image.gt_labels) for image in labelled.images),
    )
    if config.dry_run:
        return None
    result, num_images = _calibrate(config, checkpoint, proposals, labelled, weights)
    described = result.apply(checkpoint.config, num_images)
    described["model"]["one_class_iou"] = _one_class_iou(config, checkpoint)
    described["training"]["calibration"] |= {"data": config.labels_at, "split": config.split}
    checkpoints.copy(uri, config.output, described)
    logger.info("wrote %s", config.output)
    return result


def _load(uri: str) -> Checkpoint:
    """Load the checkpoint. Raise UserError if it cannot be calibrated."""
    try:
        checkpoint = checkpoints.load(uri)
    except (CheckpointError, StorageError) as error:
        raise UserError(f"--checkpoint {uri}", str(error), "Give a complete checkpoint.") from error
    if checkpoint.model.config.classifier == "svm":
        raise UserError(
            f"--checkpoint {uri}",
            "its scores are the margins of an SVM, not probabilities",
            "Give a checkpoint with a softmax, the one before jobs/ablate.py trained SVMs.",
        )
    return checkpoint


def _proposals(config: CalibrateConfig, checkpoint: Checkpoint) -> ProposalConfig:
    """Give the proposer: the one of the training, or the table of --proposals."""
    if config.proposals is not None:
        return ProposalConfig(name=TABLE, max_boxes=checkpoint.proposals.max_boxes)
    if checkpoint.proposals.spec.precomputed:
        raise UserError(
            f"--checkpoint {config.checkpoint}",
            "was trained on a table of proposals",
            "Give --proposals with the URI of a table for these images.",
        )
    return checkpoint.proposals


def _read(config: CalibrateConfig, checkpoint: Checkpoint) -> LabelledImages:
    """Read the labels. Classes that the detector does not know become ignored regions."""
    labelled = read_labelled_images(
        config.labels_at,
        config.split,
        classes=checkpoint.classes,
        limit=config.limit,
        images_at=config.images_apart,
        rules=LabelRules(
            on_bad_label=config.on_bad_label, ignore_others=True, rename=renames(config.rename)
        ),
    )
    for problem in labelled.problems:
        logger.warning("%s", problem)
    if not any(len(image.gt_labels) for image in labelled.images):
        raise UserError(
            f"--split {config.split}",
            f"holds no object of {', '.join(checkpoint.classes)}",
            "Give a split with objects of these classes, or --rename OLD=NEW.",
        )
    return labelled


def drawn_images(uri: str, labelled: LabelledImages) -> tuple[LabelledImages, dict[str, float]]:
    """Keep the images of a sample, and give the number of images that each one stands for, by URI.

    An image that was drawn m times with probability q stands for m / (n q) images. So images that the sample
    prefers do not decide alone. A weight above sqrt(n) times the mean is cut there, because one image must
    not decide alone either (truncated importance sampling, Ionides 2008).

    Args:
        uri: the --output of `jobs/sample.py`.

    Raises:
        UserError: it is no sample, or a drawn image has no label file.
    """
    rows = read_sample(uri).rows
    drawn = Counter(rows["image_uri"].to_pylist())
    probability = dict(
        zip(rows["image_uri"].to_pylist(), rows["probability"].to_pylist(), strict=True)
    )
    uris = list(drawn)
    matches = find_matches(uris, [image.image_uri for image in labelled.images])
    missing = [name for name, match in zip(uris, matches, strict=True) if match is None]
    if missing:
        raise UserError(
            f"--sample {uri}: {missing[0]}",
            f"has no labels; {len(missing)} of the {len(uris)} drawn images have none",
            "Label them too. An image without objects needs an empty label file, or an entry in the COCO"
            " file.",
        )
    kept = {match: name for name, match in zip(uris, matches, strict=True) if match is not None}
    images = tuple(labelled.images[k] for k in sorted(kept))
    weights = {
        labelled.images[k].image_uri: drawn[name] / probability[name] for k, name in kept.items()
    }
    mean = sum(weights.values()) / len(weights)
    limit = mean * len(weights) ** 0.5
    left_out = len(labelled.images) - len(images)
    if left_out:
        logger.info("%d labelled images were not drawn and are left out", left_out)
    return replace(labelled, images=images), {
        name: min(weight, limit) for name, weight in weights.items()
    }


def _calibrate(
    config: CalibrateConfig,
    checkpoint: Checkpoint,
    proposals: ProposalConfig,
    labelled: LabelledImages,
    weights: Mapping[str, float] | None,
) -> tuple[Calibrated, int]:
    """Detect on the images and fit the calibration. Return it with the number of images.

    Args:
        weights: how many images each one stands for, by URI. None: all count alike.
    """
    joined = cluster.connect(allow_open=config.allow_open_cluster)
    flags = _reading(config, checkpoint)
    with Growth(joined=joined, wait_s=flags.wait_for_nodes) as growth:
        per_worker = worker_resources(flags, growth)
        tiling = Tiling.of(checkpoint.model.config)
        examples, _ = join_proposals(flags, proposals, labelled, None, tiling)
        rules, workers = sample_rules(flags), config.num_workers
        most = proposals.max_boxes
        seen = detect_on_workers(checkpoint.model, examples, rules, per_worker, workers, most)
    counts = None
    if weights is not None:
        counts = np.array([weights[example.image.image_uri] for example in examples], np.float64)
    result = calibrate_on(
        examples,
        seen.detections,
        checkpoint.classes,
        one_class_iou=_one_class_iou(config, checkpoint),
        weights=counts,
    )
    log_calibration(result, len(examples), "images")
    if result.curves is None:
        raise JobError(
            f"the detector finds nothing in the {len(examples)} images of --split {config.split}."
            " Give other images, or train the detector longer."
        )
    return result, len(examples)


def _one_class_iou(config: CalibrateConfig, checkpoint: Checkpoint) -> float | None:
    """Give `FastRCNNConfig.one_class_iou` of the copy. No IoU is above 1, so 1 means without."""
    if config.one_class_iou is None:
        return checkpoint.model.config.one_class_iou
    return None if config.one_class_iou == 1 else config.one_class_iou


def _reading(config: CalibrateConfig, checkpoint: Checkpoint) -> TrainConfig:
    """Give the flags of a training that reads the same images."""
    rules = SampleRules.of_checkpoint(checkpoint.config)
    return TrainConfig(
        data=(config.data,) if config.data else (),
        annotations=config.annotations,
        images_at=config.images_at,
        output=config.output,
        split=config.split,
        on_bad_label=config.on_bad_label,
        proposals=config.proposals or checkpoint.proposals.name,
        max_proposals=checkpoint.proposals.max_boxes,
        num_workers=config.num_workers,
        batch_size=config.num_workers,
        gpus_per_worker=config.gpus_per_worker,
        max_failures=config.max_failures,
        range=rules.range,
        bands=rules.bands,
    )
