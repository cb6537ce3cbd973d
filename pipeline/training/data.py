"""Read the training data: labelled images, checked and joined with their proposals."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from fastrcnn.config import ProposalConfig
from fastrcnn.tiles import Tiling
from pipeline import storage
from pipeline.annotations import LabelledImages, list_files
from pipeline.annotations.names import find_split, validation_split
from pipeline.annotations.reader import LabelSet, read_sets
from pipeline.annotations.rules import LabelRules
from pipeline.annotations.sizes import compare_sizes
from pipeline.annotations.split_files import is_split_file
from pipeline.config import TrainConfig
from pipeline.config.checks import renames
from pipeline.errors import UserError
from pipeline.images import SampleRules
from pipeline.proposals import Proposed, propose_all
from pipeline.proposals.reading import check_failures
from pipeline.proposals.table import Boxes, ProposalsError, ProposalsTable
from pipeline.training.bad_labels import check_bad_labels
from pipeline.training.examples import Example
from pipeline.training.held_out import CALIBRATION_SHARE, FEWEST_IMAGES, Parts, divide
from pipeline.training.same_run import calibrates
from pipeline.training.stored_run import StoredRun

logger = logging.getLogger(__name__)


def read_data(config: TrainConfig) -> tuple[LabelledImages, LabelledImages | None]:
    """Read the labels of training and validation images, and log each problem in them.

    Returns:
        Training images, and validation images or None. Without --val-split and --val-fraction, the split that
        belongs to --split is used: `val` to `train`, `val2017` to `train2017`.

    Raises:
        UserError: the labels cannot be used.
    """
    training, validation, _ = read_parts(config, StoredRun.read(config))
    return training, validation


def read_parts(
    config: TrainConfig, begun: StoredRun
) -> tuple[LabelledImages, LabelledImages | None, Parts | None]:
    """Read as `read_data`; return also the parts of the split. None: it is not divided.

    A split is divided by --folds, --val-fraction and --test-fraction. Without validation images, a part of it
    is also held out to calibrate scores on.

    Args:
        begun: the run that the output holds. It keeps the rules for splits that it began with.
    """
    sets = [LabelSet.open(uri, images_at) for uri, images_at in config.label_sets]
    whole = _read(config, [(one, config.split) for one in sets], config.classes, config.limit)
    validation = None
    if config.val_fraction is None:
        if held_out := _to_validate(config, sets, begun.exact_splits):
            limit = None if begun.exact_splits else config.limit
            validation = _read(config, held_out, whole.classes, limit)
    _check_labels(config, [whole, *([validation] if validation else [])])
    _require_boxes(config, whole)
    parts = None
    alone = validation is None and config.val_fraction is None
    holds_out = alone and calibrates(config, begun) and len(whole.images) >= FEWEST_IMAGES
    if config.val_fraction or config.test_fraction or holds_out or config.folds is not None:
        parts = divide(config, whole, CALIBRATION_SHARE if holds_out else 0.0)
    training = whole if parts is None else parts.train
    if parts is not None and config.val_fraction is not None:
        validation = parts.val
    for part in filter(None, (training, validation)):
        for problem in part.problems:
            logger.warning("%s", problem)
    if validation is None:
        logger.info(
            "not validating; splits %s. --val-split names one, --val-fraction 0.2 takes a share",
            _all_splits(sets),
        )
        _log_held_out(parts)
    else:
        _log_shared(training, validation)
    if parts is not None and parts.fold is not None:
        logger.info(
            "fold %d of %d is left out of the training: %d of %d images",
            config.fold,
            config.folds,
            len(parts.fold.images),
            len(whole.images),
        )
    return training, validation, parts


def _read(
    config: TrainConfig,
    parts: Sequence[tuple[LabelSet, str]],
    classes: Sequence[str],
    limit: int | None,
) -> LabelledImages:
    rules = LabelRules(
        # Under `refuse`, all labels are read first: `check_bad_labels` then lists the bad ones of all splits.
        on_bad_label="clip" if config.on_bad_label == "clip" else "skip",
        ignore_others=bool(config.classes),
        rename=renames(config.rename),
    )
    return read_sets(parts, classes=classes, limit=limit, rules=rules)


def _check_labels(config: TrainConfig, read: Sequence[LabelledImages]) -> None:
    """Report bad labels. Raise if they are refused, or too many images are left out for them."""
    check_bad_labels(config, [one for part in read for one in part.bad])
    left_out = {uri: why for part in read for uri, why in part.left_out.items()}
    total = sum(len(part.images) for part in read) + len(left_out)
    check_failures(left_out, total, config.max_failures)


def _require_boxes(config: TrainConfig, training: LabelledImages) -> None:
    """Raise `UserError` if no training image has a box: the detector would learn to find nothing."""
    if not any(len(image.gt_boxes) for image in training.images):
        raise UserError(
            f"--split {config.split}",
            f"none of its {len(training.images)} images has a box",
            "Label objects in some of them, or give another --split.",
        )


def _to_validate(
    config: TrainConfig, sets: Sequence[LabelSet], exact: bool
) -> list[tuple[LabelSet, str]]:
    """Return the data sets to validate on, each with its split. Of several sets, some may have none.

    Raises:
        UserError: no set has the split of --val-split.
    """
    wanted = config.val_split
    if wanted is not None and (len(sets) == 1 or is_split_file(wanted, ())):
        return [(one, wanted) for one in sets]
    if wanted is not None:
        names = [find_split(wanted, one.splits) for one in sets]
    else:
        names = [_validation_split(config.split, one.splits, exact) for one in sets]
    pairs = zip(sets, names, strict=True)
    chosen = [(one, name) for one, name in pairs if name is not None]
    if wanted is not None and not chosen:
        raise UserError(
            f"--val-split {wanted}",
            "no data set has such a split",
            f"The splits {_all_splits(sets)}.",
        )
    if len(sets) > 1 and chosen:
        logger.info(
            "validating on %s%s",
            ", ".join(f"{name} of {one.uri}" for one, name in chosen),
            "".join(
                f"; {one.uri} has no such split, only {', '.join(one.splits)}"
                for one, name in zip(sets, names, strict=True)
                if name is None
            ),
        )
    return chosen


def _all_splits(sets: Sequence[LabelSet]) -> str:
    """List the splits of all data sets for a message."""
    if len(sets) == 1:
        return f"here: {', '.join(sets[0].splits)}"
    return "; ".join(f"of {one.uri}: {', '.join(one.splits)}" for one in sets)


def _validation_split(split: str, known: Sequence[str], exact: bool) -> str | None:
    """Return the split to validate on. `exact` is the rule of outputs from before splits had roles."""
    if exact:
        return "val" if "val" in known and split == "train" else None
    return validation_split(find_split(split, known) or split, known)


def _log_held_out(parts: Parts | None) -> None:
    """Say how many images are held out to calibrate scores on."""
    if parts is not None and parts.calibration is not None:
        held_out = len(parts.calibration.images)
        logger.info(
            "%d of %d images are held out of the training to calibrate the scores on;"
            " --model.calibrate false trains on them too, and --val-split or --val-fraction calibrates on"
            " validation images",
            held_out,
            held_out + len(parts.train.images),
        )


def _log_shared(training: LabelledImages, validation: LabelledImages) -> None:
    """Warn of images that are both trained and validated on."""
    trained = {image.image_uri for image in training.images}
    shared = [image.image_uri for image in validation.images if image.image_uri in trained]
    if shared:
        logger.warning(
            "%d of %d validation images are training images too, such as %s; validation will look"
            " better than it is",
            len(shared),
            len(validation.images),
            shared[0],
        )


def sample_rules(config: TrainConfig) -> SampleRules:
    """Return the flags that say how samples become pixels."""
    return SampleRules(range=config.range, bands=config.bands)


def join_proposals(
    config: TrainConfig,
    proposer: ProposalConfig,
    training: LabelledImages,
    validation: LabelledImages | None,
    tiling: Tiling | None = None,
) -> tuple[list[Example], list[Example]]:
    """Join labelled images with their proposals, to training and validation examples.

    Each image is decoded once, also if no proposals are computed: a broken image is left out now and does not
    end the training hours later. The sizes of the decoded images are compared with the stated ones.

    Args:
        tiling: the tiles of the model. Given proposals are then made for each tile too, see
            `fastrcnn.proposals.tiled`; of a table, all rows of an image are used.

    Raises:
        UserError: the given proposals table has no usable row for an image, or labels do not fit their
            images.
        JobError: a larger share of images than --max-failures is missing or unreadable.
    """
    parts = [part for part in (training, validation) if part is not None]
    image_uris = sorted({image.image_uri for part in parts for image in part.images})
    old_run = StoredRun.read(config).unchecked_labels
    table = _table_boxes(config, image_uris, tiling) if proposer.spec.precomputed else None
    if table is not None and old_run:
        proposed = Proposed(boxes=table)
    else:
        proposed = _propose(config, proposer, image_uris, tiling)
    boxes, errors = proposed.boxes if table is None else table, dict(proposed.errors)
    compared = compare_sizes(
        [image for part in parts for image in part.images],
        proposed.sizes,
        config.on_bad_label,
        only_warn=old_run,
    )
    before = [one for part in parts for one in part.bad]
    check_bad_labels(config, compared.bad, before)
    errors |= compared.left_out
    left_out = {uri for part in parts for uri in part.left_out}
    total = len(image_uris) + len(left_out)
    check_failures(errors, total, config.max_failures, before=len(left_out))
    pairs = [
        [
            Example(compared.images[image.image_uri], boxes[image.image_uri], not old_run)
            for image in part.images
            if image.image_uri in boxes and image.image_uri not in errors
        ]
        for part in parts
    ]
    return pairs[0], pairs[1] if len(pairs) > 1 else []


def _propose(
    config: TrainConfig,
    proposer: ProposalConfig,
    image_uris: Sequence[str],
    tiling: Tiling | None,
) -> Proposed:
    """Compute the proposals of these images, or only decode them if the proposals come from elsewhere."""
    # List objects with any suffix: a labelled object is an image.
    listed = {uri: info for place in config.label_sets for uri, info in list_files(*place).items()}
    infos = [listed[uri] for uri in image_uris if uri in listed]
    if proposer.spec.precomputed:
        proposer = ProposalConfig(name="rpn", max_boxes=proposer.max_boxes)
    folder = storage.join(config.output, "checked" if proposer.spec.learned else "proposals")
    proposed = propose_all(
        infos,
        proposer,
        folder,
        rules=sample_rules(config),
        truncated=config.truncated,
        tiling=None if proposer.spec.learned else tiling,
    )
    missing = "missing: it has labels, but the file does not exist"
    proposed.errors.update({uri: missing for uri in image_uris if uri not in listed})
    return proposed


def _table_boxes(
    config: TrainConfig, image_uris: Sequence[str], tiling: Tiling | None
) -> dict[str, Boxes]:
    """Read the proposals (P, 4) of these images from the table that --proposals names. Tiles share them, so
    with tiles all are read."""
    most = None if tiling else config.max_proposals
    table = ProposalsTable.read(str(config.proposals), *config.image_roots)
    try:
        table.check_unambiguous(image_uris)
        return {uri: table.of(uri, most) for uri in image_uris}
    except ProposalsError as error:
        raise UserError(
            f"--proposals {config.proposals}",
            str(error),
            "Add a row for each training image; one without proposals has an empty list.",
        ) from error
