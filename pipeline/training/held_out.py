"""Divide the images of one split: training, validation (--val-fraction), test (--test-fraction), calibration,
and the fold that --folds leaves out (`pipeline.annotations.folds`).

A training that calibrates its scores and has no validation images holds out a tenth of its images for it.

An image belongs to a part by a hash of the seed and of its path below the data set, so images that are added
later move no other image. So the number of images in a part is close to the share, not equal to it. A class
that has no image in a part gets one, as long as the training keeps one. Once written, `splits/<name>.txt`
decide.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline import storage
from pipeline.annotations import LabelledImages
from pipeline.annotations.folds import fold_of, spread_position
from pipeline.annotations.split_files import below, read_split_file, split_file
from pipeline.config import TrainConfig
from pipeline.errors import UserError

logger = logging.getLogger(__name__)

PARTS = ("train", "val", "test", "calibration", "fold")
CALIBRATION_SHARE = 0.1
"""Share of the training images to calibrate scores on if there are no validation images."""
FEWEST_IMAGES = 10
"""With fewer images, none is held out: a tenth is less than one image."""
_SALT = "1276"
_GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """The images of one split, divided."""

    train: LabelledImages
    val: LabelledImages | None
    """None if there is no --val-fraction."""
    test: LabelledImages | None
    """None if there is no --test-fraction."""
    calibration: LabelledImages | None
    """None if no image is held out to calibrate scores on."""
    fold: LabelledImages | None = None
    """The images of --fold. None without --folds."""


def divide(config: TrainConfig, images: LabelledImages, calibration: float = 0.0) -> Parts:
    """Divide labelled images by --folds, and those of the other folds by --val-fraction and --test-fraction.

    Args:
        calibration: share of the other images to hold out for the calibration of scores.

    Raises:
        UserError: nothing is left to train on, or no image is in the fold.
    """
    recorded = _recorded(config)
    uris = [image.image_uri for image in images.images]
    shares = {"val": config.val_fraction or 0.0, "test": config.test_fraction or 0.0}
    shares["calibration"] = calibration * (1 - shares["val"] - shares["test"])
    position = {uri: _position(config.seed, below(uri, config.image_roots)) for uri in uris}
    part = {uri: recorded.get(uri) or _part(position[uri], shares) for uri in uris}
    part |= dict.fromkeys(_in_fold(config, uris), "fold")
    new = [uri for uri in uris if uri not in recorded and part[uri] != "fold"]
    classes = {image.image_uri: set(image.gt_labels.tolist()) for image in images.images}
    _fill(part, classes, position, new, [name for name in ("val", "test") if shares[name]])
    chosen = {
        name: tuple(image for image in images.images if part[image.image_uri] == name)
        for name in PARTS
    }
    if config.folds is not None:
        _check_folds(config, images.classes, classes, part)
    if not chosen["train"]:
        given = {"--val-fraction": config.val_fraction, "--test-fraction": config.test_fraction}
        flags = [f"{flag} {share}" for flag, share in given.items() if share]
        noun = "image" if len(uris) == 1 else "images"
        raise UserError(
            " ".join(flags),
            f"the split has {len(uris)} {noun}, and all of them would be held out: none is left to train on",
            f"Give more images, or train without {' and '.join(flag.split()[0] for flag in flags)}.",
        )
    parts = {
        name: replace(images, images=kept, problems=(), bad=(), left_out={})
        for name, kept in chosen.items()
    }
    return Parts(
        train=replace(images, images=chosen["train"]),
        val=parts["val"] if chosen["val"] else None,
        test=parts["test"] if chosen["test"] else None,
        calibration=parts["calibration"] if chosen["calibration"] else None,
        fold=parts["fold"] if config.folds is not None else None,
    )


def _in_fold(config: TrainConfig, uris: Sequence[str]) -> list[str]:
    """List the images of --fold."""
    if config.folds is None:
        return []
    return [
        uri
        for uri in uris
        if fold_of(below(uri, config.image_roots), seed=config.seed, folds=config.folds)
        == config.fold
    ]


def _check_folds(
    config: TrainConfig,
    names: Sequence[str],
    classes: Mapping[str, set[int]],
    part: Mapping[str, str],
) -> None:
    """Raise UserError if the fold or the rest is empty. Warn of classes that only the fold has."""
    inside = [uri for uri, name in part.items() if name == "fold"]
    if not inside or len(inside) == len(part):
        raise UserError(
            f"--folds {config.folds} --fold {config.fold}",
            f"hold {len(inside)} of {len(part)} images",
            "Give fewer folds, or more images.",
        )
    left = {label for uri, labels in classes.items() if part[uri] != "fold" for label in labels}
    only = sorted({label for uri in inside for label in classes[uri]} - left)
    if only:
        logger.warning(
            "only fold %d has images of %s: this training cannot learn it",
            config.fold,
            ", ".join(names[label - 1] for label in only),
        )


def write_parts(config: TrainConfig, parts: Parts) -> None:
    """Write splits/<name>.txt into the output.

    The images of a fold are written with their whole URIs, so that the file is a list to score too.
    """
    for name in PARTS:
        images: LabelledImages | None = getattr(parts, name)
        if images is None:
            continue
        uris = [image.image_uri for image in images.images]
        uri = _uri(config, name)
        roots = () if name == "fold" else config.image_roots
        storage.write_bytes(uri, split_file(uris, roots, config.split))
        logger.info("wrote %d images to %s", len(uris), uri)


def _uri(config: TrainConfig, name: str) -> str:
    return storage.join(config.output, "splits", f"{name}.txt")


def _recorded(config: TrainConfig) -> dict[str, str]:
    """Map the images in the split files of an earlier command to their parts."""
    recorded: dict[str, str] = {}
    roots = [storage.absolute(root).rstrip("/") for root in config.image_roots]
    for name in PARTS:
        if storage.exists(uri := _uri(config, name)):
            listed = read_split_file(uri)
            uris = [f"{root}/{path}" for root in roots for path in listed.relative]
            recorded |= dict.fromkeys((*listed.absolute, *uris), name)
    return recorded


def _position(seed: int, path: str) -> float:
    """Return a number from 0 to below 1 that depends on nothing but seed and path."""
    return spread_position(path, f"{_SALT}\n{seed}", _GOLDEN)


def _part(position: float, shares: Mapping[str, float]) -> str:
    """Return the part of an image: validation and calibration are cut from the low end, test from the high
    end."""
    if position < shares["val"]:
        return "val"
    if position >= 1 - shares["test"]:
        return "test"
    return "calibration" if position < shares["val"] + shares["calibration"] else "train"


def _fill(
    part: dict[str, str],
    classes: Mapping[str, set[int]],
    position: Mapping[str, float],
    new: Iterable[str],
    names: Sequence[str],
) -> None:
    """Move images so that each class has one in the training and, if it has more, one in each other part.

    Args:
        part: URI -> part; changed.
        classes: URI -> the classes in the image.
        position: URI -> its hash; decides which image moves.
        new: the images that may be moved.
        names: the parts besides the training.
    """
    movable = sorted(new, key=lambda uri: position[uri])
    images = Counter(label for labels in classes.values() for label in labels)
    count = Counter((part[uri], label) for uri, labels in classes.items() for label in labels)

    def move(uri: str, to: str) -> None:
        for label in classes[uri]:
            count[part[uri], label] -= 1
            count[to, label] += 1
        part[uri] = to

    for label, _ in sorted(images.items(), key=lambda item: (item[1], item[0])):  # rarest first
        for to in ("train", *names):
            if count[to, label]:
                continue
            for uri in movable:
                giver = part[uri]
                needed = classes[uri] if giver == "train" else {label}
                spare = to == "train" or all(count[giver, other] > 1 for other in needed)
                if label in classes[uri] and giver != to and spare:
                    move(uri, to)
                    break
