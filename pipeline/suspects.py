"""Finds labels that are probably wrong, from detections of models that were not trained on their images.

    <output>/suspects.parquet   one row for each suspect, ranked (`pipeline.schema.SUSPECTS`)
    <output>/suspects.html      a page with a crop of each, to judge them
    <output>/tasks/             the labels of these images for tools (`pipeline.results.suspect_tasks`)
    <output>/corrected/         with --judged: a data set with corrected labels, in COCO's layout

The scores of suspects are explained in `pipeline.results.suspicion`.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from fastrcnn.metrics import ImageGroundTruth
from pipeline import storage
from pipeline.annotations import LabelledImages
from pipeline.annotations.reader import LabelSet, read_sets
from pipeline.annotations.rules import LabelRules
from pipeline.annotations.split_files import below
from pipeline.config.checks import renames
from pipeline.config.suspects import SuspectsConfig
from pipeline.errors import UserError
from pipeline.results.cleanlab_scores import cleanlab_scores, import_cleanlab
from pipeline.results.corrections import by_image, corrected
from pipeline.results.joined import detections_of, ground_truth, log_problems, upright
from pipeline.results.out_of_fold import OutOfFold, find_fold_runs, out_of_fold
from pipeline.results.suspect_tasks import LabelledPicture, coco_text, write_tasks
from pipeline.results.suspects_page import crops, suspects_page
from pipeline.results.suspects_table import NAME, Place, encode_suspects, suspects_table
from pipeline.results.suspicion import KINDS, find_suspects
from pipeline.storage.chains import unpacked

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class SuspectsSummary:
    """What was found."""

    uri: str
    """Where suspects.parquet is."""
    images: int
    """Labelled images that were examined."""
    unseen: int
    """Labelled images without a row of a model that was not trained on them."""
    suspects: Mapping[str, int]
    """Number of suspects by kind."""
    changed: int = 0
    """With --judged: labels that were changed in corrected/."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Examined:
    """The labels, what was seen in their images, and the suspects."""

    labelled: LabelledImages
    """All images of the split; boxes of the examined ones are upright."""
    seen: OutOfFold
    truth: Sequence[ImageGroundTruth]
    """Labels of the examined images, with the classes of the detectors."""
    table: pa.Table

    @property
    def classes(self) -> tuple[str, ...]:
        """All classes: those of the labels, and those that only the detectors have."""
        return tuple(dict.fromkeys((*self.labelled.classes, *self.seen.classes)))


def run(config: SuspectsConfig) -> SuspectsSummary:
    """Find the suspects, and write the table, the page and the tasks; with --judged, the corrected labels.

    Raises:
        UserError: the labels cannot be read, no image has a row of a model that was not trained on it, the
            judged suspects are of another table, or cleanlab is asked for and not installed.
    """
    storage.check_writable(config.output)
    if config.cleanlab:
        import_cleanlab()
    judged = None if config.judged is None else _read_judged(config.judged)
    examined = _examine(config)
    table, seen = examined.table, examined.seen
    counts = Counter(table["kind"].to_pylist())
    by_kind: dict[str, int] = {kind: counts[kind] for kind in KINDS}
    _log(examined, by_kind)
    changed = 0
    if config.dry_run:
        logger.info("--dry-run: nothing was written")
    else:
        _write(config, examined, by_kind)
        if judged is not None:
            changed = _correct(config, examined, judged)
    return SuspectsSummary(
        uri=storage.join(config.output, NAME),
        images=len(seen.kept),
        unseen=seen.unseen,
        suspects=by_kind,
        changed=changed,
    )


def _examine(config: SuspectsConfig) -> _Examined:
    sets = [LabelSet.open(uri, images_at) for uri, images_at in config.label_sets]
    labelled = read_sets(
        [(one, config.split) for one in sets],
        rules=LabelRules(on_bad_label=config.on_bad_label, rename=renames(config.rename)),
    )
    log_problems(labelled.problems)
    log_problems([f"{one.text}; {one.done}" for one in labelled.bad])
    runs = find_fold_runs(config.scored, config.run_id)
    uris = [image.image_uri for image in labelled.images]
    seen = out_of_fold(runs, uris, config.image_roots)
    kept = replace(labelled, images=tuple(labelled.images[k] for k in seen.kept))
    kept = upright(kept, seen.rows)
    truth = _with_other_classes_ignored(kept, seen.classes)
    detections = detections_of(seen.rows, seen.classes)
    suspects = find_suspects(truth, detections, len(seen.classes), min_score=config.min_score)
    second = None
    if config.cleanlab:
        second = cleanlab_scores(suspects, truth, detections, len(seen.classes))
    rows = zip(kept.images, seen.rows["image_uri"].to_pylist(), seen.runs, strict=True)
    places = [
        Place(uri=uri, annotation_uri=image.annotation_uri, run_id=run.files.run_id)
        for image, uri, run in rows
    ]
    images = list(labelled.images)
    for k, image in zip(seen.kept, kept.images, strict=True):
        images[k] = image
    return _Examined(
        labelled=replace(labelled, images=tuple(images)),
        seen=seen,
        truth=truth,
        table=suspects_table(suspects, places, seen.classes, second),
    )


def _with_other_classes_ignored(
    labelled: LabelledImages, classes: Sequence[str]
) -> list[ImageGroundTruth]:
    """Return the labels of these classes. Objects of other classes become ignored regions."""
    known = np.array([name in classes for name in labelled.classes], bool)
    return [
        replace(
            truth,
            ignored_regions=np.concatenate(
                [image.ignored, image.gt_boxes[~known[image.gt_labels - 1]]]
            ),
        )
        for truth, image in zip(ground_truth(labelled, classes), labelled.images, strict=True)
    ]


def _log(examined: _Examined, counts: Mapping[str, int]) -> None:
    labels = sum(len(truth.labels) for truth in examined.truth)
    logger.info(
        "%d images with %d labels examined: %s",
        len(examined.seen.kept),
        labels,
        ", ".join(f"{number} {kind}" for kind, number in counts.items()),
    )


def _write(config: SuspectsConfig, examined: _Examined, counts: Mapping[str, int]) -> None:
    table, seen = examined.table, examined.seen
    run_ids = sorted({run.files.run_id for run in seen.runs})
    rows = table.slice(0, config.pictures).to_pylist()
    pictures, error = crops(
        rows,
        side=config.thumbnail,
        max_bytes=int(config.page_mib * 2**20),
        rules=seen.runs[0].config.rules,
    )
    if error is not None:
        logger.warning("some pictures could not be read. The first error: %s", error)
    page = suspects_page(
        rows,
        pictures,
        source=f"Labels: {_labels_at(config)}, {config.split}. Runs: {', '.join(run_ids)}.",
        counts=counts,
        warnings=_warnings(seen),
    )
    metadata = {"run_ids": ",".join(run_ids), "data": _labels_at(config), "split": config.split}
    with storage.driver_errors(config.output):
        for path, text in _tasks(config, examined).items():
            storage.write_bytes(storage.join(config.output, path), text.encode())
        storage.write_bytes(storage.join(config.output, "suspects.html"), page)
        storage.write_bytes(storage.join(config.output, NAME), encode_suspects(table, metadata))
    logger.info(
        "wrote %s, suspects.html and tasks/ to %s. Judge the suspects on the page, save judged.json, and run"
        " this command again with --judged judged.json",
        NAME,
        config.output,
    )


def _warnings(seen: OutOfFold) -> list[str]:
    lines = []
    if any(run.fold is None for run in seen.runs):
        lines.append(
            "A checkpoint does not say which images it was not trained on. A model that has seen wrong labels"
            " repeats them, and few are found."
        )
    if not all(run.calibrated for run in seen.runs):
        lines.append("The scores are not calibrated, so the ranks are poor.")
    if seen.unseen:
        lines.append(f"{seen.unseen} labelled images were not examined: no model scored them.")
    return lines


def _labels_at(config: SuspectsConfig) -> str:
    return config.annotations or " ".join(config.data)


def _tasks(config: SuspectsConfig, examined: _Examined) -> dict[str, str]:
    """Make the tasks of the images that have suspects."""
    groups = by_image(examined.table.to_pylist())
    seen, classes = examined.seen, examined.classes
    uris = seen.rows["image_uri"].to_pylist()
    kept = replace(examined.labelled, images=tuple(examined.labelled.images[k] for k in seen.kept))
    sizes = zip(*(seen.rows[name].to_pylist() for name in ("height", "width")), strict=True)
    folder = _common_folder([unpacked(uri) for uri in groups])
    pictures = []
    for uri, size, truth in zip(uris, sizes, ground_truth(kept, classes), strict=True):
        if uri in groups:
            path = unpacked(uri).removeprefix(folder)
            root = config.image_root
            pictures.append(
                LabelledPicture(
                    path=path,
                    uri=uri if root is None else storage.join(os.path.expanduser(root), path),
                    size=size,
                    truth=truth,
                    corrected=corrected(truth, groups[uri], classes)[0],
                )
            )
    return write_tasks(pictures, classes)


def _common_folder(uris: Sequence[str]) -> str:
    """Return the deepest folder that holds all images, with a slash at its end."""
    return os.path.commonprefix([uri.rpartition("/")[0] + "/" for uri in uris]).rpartition("/")[
        0
    ] + ("/" if uris else "")


def _read_judged(uri: str) -> dict[str, bool]:
    """Read what the page saved: name of each judged suspect -> whether the label is wrong."""
    with storage.driver_errors(uri):
        data = storage.read_bytes(uri)
    try:
        judged: Any = json.loads(data)["judged"]
        if not isinstance(judged, dict) or not all(type(v) is bool for v in judged.values()):
            raise ValueError("`judged` is no map from suspects to true or false")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"--judged {uri}",
            f"is not a file of the page ({error!r})",
            "Give the judged.json that suspects.html saved.",
        ) from error
    return judged


def _correct(config: SuspectsConfig, examined: _Examined, judged: Mapping[str, bool]) -> int:
    """Write the labels of the whole split, with those changed that were judged wrong. Return their number."""
    unknown = sorted(set(judged) - set(examined.table["suspect"].to_pylist()))
    if unknown:
        raise UserError(
            f"--judged {config.judged}",
            f"judges {len(unknown)} suspects that are not in the table, such as {unknown[0]}",
            "Give the same --scored, --data and --min-score as when the page was made.",
        )
    rows = [row for row in examined.table.to_pylist() if judged.get(row["suspect"])]
    groups = by_image(rows)
    labelled, seen, classes = examined.labelled, examined.seen, examined.classes
    root = _image_root(config)
    places = dict(zip(seen.kept, range(len(seen.kept)), strict=True))
    uris = seen.rows["image_uri"].to_pylist()
    sizes = list(zip(*(seen.rows[name].to_pylist() for name in ("height", "width")), strict=True))
    images, changed = [], 0
    for k, (image, truth) in enumerate(
        zip(labelled.images, ground_truth(labelled, classes), strict=True)
    ):
        place = places.get(k)
        if place is not None and uris[place] in groups:
            truth, count = corrected(truth, groups[uris[place]], classes)
            changed += count.total()
        size = image.size
        if place is not None and None not in sizes[place]:
            size = sizes[place]
        path = below(image.image_uri, [root])
        picture = LabelledPicture(
            path=path, uri=image.image_uri, size=size, truth=truth, corrected=truth
        )
        images.append((picture, truth))
    _warn_of_losses(labelled)
    split = config.split if config.split.isidentifier() else "train"
    uri = storage.join(config.output, "corrected", "annotations", f"instances_{split}.json")
    with storage.driver_errors(uri):
        storage.write_bytes(uri, coco_text(images, classes).encode())
    logger.info(
        "wrote %s: %d images, %d labels changed. Train with --annotations %s --images-at %s",
        uri,
        len(images),
        changed,
        storage.join(config.output, "corrected"),
        root,
    )
    return changed


def _image_root(config: SuspectsConfig) -> str:
    """Return the folder that paths in corrected/ start from: that of the images, or of all data sets."""
    roots = config.image_roots
    if len(roots) == 1:
        return roots[0]
    common = _common_folder([f"{storage.absolute(root).rstrip('/')}/" for root in roots])
    if not common.split("://")[-1]:
        raise UserError(
            f"--data {' '.join(config.data)}",
            "lie in different stores, so no folder holds the images of all",
            "Correct each data set by itself: give one --data.",
        )
    return common


def _warn_of_losses(labelled: LabelledImages) -> None:
    difficult = sum(int(image.difficult.sum()) for image in labelled.images)
    regions = sum(len(image.ignored) for image in labelled.images)
    if difficult:
        logger.warning("%d difficult objects are written as crowds (iscrowd)", difficult)
    if regions:
        logger.warning("%d ignored regions (bad labels) are not in corrected/", regions)
