"""Chooses for each labelled image the scoring run whose model was not trained on it.

A checkpoint of `jobs/train.py --folds K --fold I` says which images it left out. Of the runs of all folds, an
image takes the row of the model that left it out, also if every model scored every image.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline import storage
from pipeline.annotations.folds import fold_of
from pipeline.annotations.split_files import below
from pipeline.errors import UserError
from pipeline.results.image_matching import find_matches
from pipeline.results.run_config import RunConfig, read_run_config
from pipeline.results.scored import RunFiles, ScoredRun, list_runs, read_run

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class FoldRun:
    """A scoring run, and the fold that its model was not trained on."""

    files: RunFiles
    config: RunConfig
    fold: int | None
    """None: the checkpoint does not say."""
    folds: int = 0
    seed: int = 0

    @property
    def calibrated(self) -> bool:
        """Whether its scores are calibrated."""
        model = self.config.checkpoint.get("model") or {}
        return bool(model.get("calibration"))

    def left_out(self, path: str) -> bool:
        """Whether its model was not trained on the image of this path below the data set."""
        return self.fold is None or self.fold == fold_of(path, seed=self.seed, folds=self.folds)


@dataclass(frozen=True, kw_only=True, slots=True)
class OutOfFold:
    """The labelled images that a run left out, each with its row."""

    kept: tuple[int, ...]
    """Positions of these images among the labelled ones."""
    rows: pa.Table
    """Their rows, in order; columns of `ScoredRun.rows`."""
    runs: tuple[FoldRun, ...]
    """The run of each row."""
    classes: tuple[str, ...]
    """Classes of the detectors; label k is classes[k - 1]."""
    unseen: int
    """Labelled images without such a row."""


def find_fold_runs(scored: Sequence[str], run_ids: Sequence[str]) -> list[FoldRun]:
    """List the runs of some folders.

    Args:
        run_ids: the runs to use; empty means all.

    Raises:
        UserError: there is no run, or none of a given name.
    """
    found: dict[str, RunFiles] = {}
    for place in scored:
        for run_id, files in list_runs(place).items():
            found[f"{files.root} {run_id}"] = files
    known = sorted({files.run_id for files in found.values()})
    for run_id in run_ids:
        if run_id not in known:
            raise UserError(
                f"--run-id {run_id}",
                f"is not under {' '.join(scored)}",
                f"Give some of: {', '.join(known)}.",
            )
    chosen = [files for files in found.values() if not run_ids or files.run_id in run_ids]
    return [_fold_run(files) for files in chosen]


def _fold_run(files: RunFiles) -> FoldRun:
    config = read_run_config(files)
    training: Any = config.checkpoint.get("training")
    flags: Any = training.get("flags") if isinstance(training, Mapping) else None
    given: list[Any] = []
    if isinstance(flags, Mapping):
        given = [flags.get(k) for k in ("fold", "folds", "seed")]
    if len(given) == 3 and all(type(number) is int for number in given):
        return FoldRun(files=files, config=config, fold=given[0], folds=given[1], seed=given[2])
    return FoldRun(files=files, config=config, fold=None)


def out_of_fold(runs: Sequence[FoldRun], uris: Sequence[str], roots: Sequence[str]) -> OutOfFold:
    """Choose the row of each labelled image, and log what is missing.

    Args:
        uris: the labelled images.
        roots: the folders of the data sets, as the trainings were given them.

    Raises:
        UserError: no image has a row of a model that was not trained on it, an image has such rows in two
            runs, or the runs have different classes.
    """
    names = {storage.basename(uri) for uri in uris}
    read = [read_run(run.files, names) for run in runs]
    _check_classes(runs, read)
    choice: list[tuple[int, int] | None] = [None] * len(uris)
    trained, failed = 0, 0
    paths = [below(uri, roots) for uri in uris]
    for number, (run, scored) in enumerate(zip(runs, read, strict=True)):
        statuses = scored.rows["status"].to_pylist()
        for k, match in enumerate(find_matches(uris, scored.rows["image_uri"].to_pylist())):
            if match is None:
                continue
            if statuses[match] != "ok":
                failed += 1
                continue
            if not run.left_out(paths[k]):
                trained += 1
                continue
            if (other := choice[k]) is not None:
                raise UserError(
                    uris[k],
                    f"was scored in run {runs[other[0]].files.run_id} and in run {run.files.run_id}, and both"
                    " may be of models that were not trained on it",
                    "Give --run-id with one run for each fold.",
                )
            choice[k] = (number, match)
    kept = [k for k, chosen in enumerate(choice) if chosen is not None]
    chosen = [pair for pair in choice if pair is not None]
    if not kept:
        raise UserError(
            f"--scored {' '.join(run.files.root for run in runs)}",
            f"has no row of a model that was not trained on the image, for any of {len(uris)} images"
            + (f"; {trained} rows are of models that were trained on theirs" if trained else ""),
            "Score splits/fold.txt of each training of jobs/train.py --folds with its checkpoint.",
        )
    _log(runs, len(uris), len(kept), trained, failed)
    # Rows of one run after the other, then back into the order of the images.
    tables = []
    order: list[int] = []
    for number, scored in enumerate(read):
        places = [i for i, pair in enumerate(chosen) if pair[0] == number]
        tables.append(scored.rows.take(pa.array([chosen[i][1] for i in places], pa.int64())))
        order += places
    back = sorted(range(len(order)), key=order.__getitem__)
    return OutOfFold(
        kept=tuple(kept),
        rows=pa.concat_tables(tables).take(pa.array(back, pa.int64())),
        runs=tuple(runs[pair[0]] for pair in chosen),
        classes=read[0].classes,
        unseen=len(uris) - len(kept),
    )


def _check_classes(runs: Sequence[FoldRun], read: Sequence[ScoredRun]) -> None:
    for run, scored in zip(runs, read, strict=True):
        if set(scored.classes) != set(read[0].classes):
            raise UserError(
                f"--scored {run.files.root}",
                f"is of a detector of {', '.join(scored.classes)}, and {runs[0].files.root} of one of"
                f" {', '.join(read[0].classes)}",
                "Give runs of trainings with the same classes.",
            )


def _log(
    runs: Sequence[FoldRun], num_images: int, num_kept: int, trained: int, failed: int
) -> None:
    for run in runs:
        if run.fold is None:
            logger.warning(
                "run %s: its checkpoint does not say which images it was not trained on"
                " (jobs/train.py --folds). A model that has seen wrong labels repeats them, and finds few"
                " suspects",
                run.files.run_id,
            )
        if not run.calibrated:
            logger.warning(
                "run %s: its scores are not calibrated, so ranks and scores of suspects are poor."
                " jobs/calibrate.py makes a calibrated checkpoint",
                run.files.run_id,
            )
    if num_kept < num_images:
        logger.warning(
            "%d of %d labelled images are left out: no model that was not trained on them has scored them"
            " (%d rows are of models that were trained on theirs, %d have another status than ok)",
            num_images - num_kept,
            num_images,
            trained,
            failed,
        )
