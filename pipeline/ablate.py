"""Run the comparisons of the paper on labelled data, one Ray Tune trial per training, and write one table.

<output>/trials/<training>/              checkpoint and result.json; a finished trial is not repeated
<output>/ablations.md, .parquet, .png    the table: for people, for queries, and as a bar chart; written after
                                         each finished trial
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import ray
from ray import tune

from fastrcnn.config import LEARNED
from fastrcnn.tiles import Tiling
from pipeline import storage
from pipeline.ablation.comparisons import rows
from pipeline.ablation.config import AblateConfig, Row, Test, Training
from pipeline.ablation.table import as_markdown, as_parquet, as_png, results_of
from pipeline.ablation.trial import read_result, run_trial
from pipeline.annotations import LabelledImages, read_labelled_images
from pipeline.errors import JobError, UserError
from pipeline.proposals.table import find_table
from pipeline.runtime import cluster
from pipeline.runtime.cli import configure_logging
from pipeline.runtime.machine import check_machine
from pipeline.training.data import join_proposals
from pipeline.training.examples import Example
from pipeline.training.held_out import divide
from pipeline.training.initial_weights import initial_model, is_name
from pipeline.training.plan import TrainPlan
from pipeline.training.same_run import check_same_run, claim_output
from pipeline.training.stored_run import StoredRun

logger = logging.getLogger(__name__)

FREE_FLAGS = (
    "comparisons",
    "seeds",
    "svd_shares",
    "cpus_per_trial",
    "gpus_per_trial",
    "dry_run",
    "allow_open_cluster",
)
"""Flags that may differ when a run is resumed. They select trials, tests and machines; they do not change the
result of a trial."""


def run(config: AblateConfig) -> list[dict[str, Any]] | None:
    """Make the trainings and tests that the rows need, then write the tables.

    Returns:
        The table's rows; None for a dry run.

    Raises:
        UserError: a flag or the data cannot be used. Raised before any worker starts.
        JobError: a trial failed. The same command continues and keeps the finished trials.
    """
    check_machine()
    storage.check_writable(config.output)
    flags = _with_absolute_uris(config)
    begun = StoredRun.read(flags)
    check_same_run(flags, FREE_FLAGS, begun)
    config = flags.effective_flags(begun.old_numbers)
    config = replace(config, weights=begun.weights(flags.weights))
    table_rows = rows(config)
    training, test = read_data(config)
    trials = _trials(table_rows)
    for trial, tests in trials.items():  # report flags that cannot be used before any worker starts
        plan = TrainPlan.of(config.training(trial), training.classes)
        _check_tests(tests, plan)
    initial_model(plan.model, config.weights, config.seeds[0], training.classes)
    logger.info(
        "%d rows, %d trainings, %d training images, %d test images",
        len(table_rows), len(trials), len(training.images), len(test.images),
    )  # fmt: skip
    if config.dry_run:
        for row in table_rows:
            logger.info("%s: %s (%s)", row.comparison, row.setting, row.training.name)
        return None
    # The newer console output of Tune prints tables, and folders that are deleted when the job ends.
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    claim_output(flags, FREE_FLAGS)
    cluster.connect(allow_open=config.allow_open_cluster)
    _run_trials(config, trials, training, test, lambda: _write_tables(config, table_rows))
    results = _write_tables(config, table_rows)
    logger.info("\n%s", as_markdown(config, results))
    return results


def _write_tables(config: AblateConfig, table_rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Write the tables with the rows whose trials are finished. Gives these rows."""
    results = results_of(
        table_rows, {r.training.name: read_result(config, r.training) for r in table_rows}
    )
    for name, data in (
        ("ablations.md", as_markdown(config, results).encode()),
        ("ablations.parquet", as_parquet(results)),
        ("ablations.png", as_png(results)),
    ):
        storage.write_bytes(storage.join(config.output, name), data)
    return results


class _AfterEachTrial(tune.Callback):
    """Let Tune call a function after each finished trial."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._call()


def read_data(config: AblateConfig) -> tuple[LabelledImages, LabelledImages]:
    """Read the labels of the images to train on and to test on."""
    training = read_labelled_images(config.data, config.split, limit=config.limit)
    if config.val_fraction is not None:
        flags = replace(config.training(Training()), val_fraction=config.val_fraction)
        parts = divide(flags, training)
        if parts.val is None:
            raise UserError(
                f"--val-fraction {config.val_fraction}",
                f"leaves none of the {len(training.images)} images to test on",
                "Give a larger share.",
            )
        return parts.train, parts.val
    test = read_labelled_images(
        config.data, config.test_split, classes=training.classes, limit=config.limit
    )
    return training, test


def _check_tests(tests: Sequence[Test], plan: TrainPlan) -> None:
    """Raise UserError for a test that is not possible with an RPN, and for --set patience."""
    if plan.solver.patience is not None:
        raise UserError(
            f"--set patience={plan.solver.patience}",
            "a trial is not validated before its end",
            "Leave it out.",
        )
    if plan.model.rpn is not None and any(test.svm for test in tests):
        raise UserError(
            f"--comparisons svm --proposals {LEARNED}",
            "SVMs are trained on given proposals of the training images, and an RPN has none",
            "Give another proposer or a table as --proposals, or leave this comparison out.",
        )


def _with_absolute_uris(config: AblateConfig) -> AblateConfig:
    """Make all paths absolute, because Tune runs each trial in another working folder."""
    weights, proposals = config.weights, config.proposals
    return replace(
        config,
        data=storage.absolute(config.data),
        output=storage.absolute(config.output),
        weights=weights if is_name(weights) else storage.absolute(weights),
        proposals=storage.absolute(proposals) if find_table(proposals) else proposals,
    )


def _trials(table_rows: Sequence[Row]) -> dict[Training, tuple[Test, ...]]:
    """Collect the trainings that rows or other trainings need, each with its tests."""
    trials: dict[Training, dict[Test, None]] = {}
    for row in table_rows:
        if row.training.start:
            trials.setdefault(row.training.start, {})
        trials.setdefault(row.training, {})[row.test] = None
    return {training: tuple(tests) for training, tests in trials.items()}


def _run_trials(
    config: AblateConfig,
    trials: dict[Training, tuple[Test, ...]],
    training: LabelledImages,
    test: LabelledImages,
    after_each: Callable[[], object],
) -> None:
    """Run the trials that are not finished: first those that start from `config.weights`, then the others.

    Args:
        after_each: called after each finished trial.
    """
    unfinished = {t: tests for t, tests in trials.items() if not _is_finished(config, t, tests)}
    logger.info("%d of %d trainings are finished", len(trials) - len(unfinished), len(trials))
    if not unfinished:
        return
    examples = {}
    for proposals in dict.fromkeys(trial.proposals for trial in unfinished):
        flags = config.training(Training(proposals=proposals))
        plan = TrainPlan.of(flags, training.classes).fitted(training.images)
        pair = join_proposals(flags, plan.proposals, training, test, Tiling.of(plan.model))
        examples[proposals] = (ray.put(pair[0]), ray.put(pair[1]))
    shared = {"config": config, "classes": training.classes, "examples": examples}
    for from_another in (False, True):  # a second stage needs the weights of the first
        wave = {t: tests for t, tests in unfinished.items() if bool(t.start) == from_another}
        if wave:
            _run_wave(config, wave, shared, after_each)


def _run_wave(
    config: AblateConfig,
    wave: dict[Training, tuple[Test, ...]],
    shared: dict[str, Any],
    after_each: Callable[[], object],
) -> None:
    """Run these trials with Tune. Raise JobError if one fails."""
    # The longest trials come first: one that starts last would run alone at the end.
    order = sorted(wave, key=lambda t: "rois_per_image=1" not in t.settings)
    trainable = tune.with_resources(
        tune.with_parameters(_trainable, shared=shared, wave=wave),
        {"CPU": config.cpus_per_trial, "GPU": config.gpus_per_trial},
    )
    with tempfile.TemporaryDirectory(prefix="tune-") as folder:
        # The results are in <output>/trials/. The files of Tune are not needed later.
        results = tune.Tuner(
            trainable,
            param_space={"training": tune.grid_search(order)},
            # Reuse the processes, so that each loads torch once.
            tune_config=tune.TuneConfig(reuse_actors=True),
            run_config=tune.RunConfig(
                name="ablations",
                storage_path=folder,
                verbose=0,
                callbacks=[_AfterEachTrial(after_each)],
            ),
        ).fit()
    unfinished = sum(not _is_finished(config, t, tests) for t, tests in wave.items())
    if unfinished and not results.num_errors:  # Tune ends without an error after Ctrl-C
        raise JobError(
            f"stopped with {unfinished} of {len(wave)} trainings unfinished."
            " Run the same command to continue."
        )
    if results.num_errors:
        # The lines before the last are the traceback, which Ray logs.
        cause = str(results.errors[0]).strip().splitlines()[-1]
        raise JobError(
            f"{results.num_errors} of {len(wave)} trainings failed. First error: {cause}."
            " Run the same command to continue."
        )


def _trainable(
    setup: dict[str, Any], shared: dict[str, Any], wave: dict[Training, tuple[Test, ...]]
) -> None:
    """Run one trial in a worker; Tune calls this."""
    configure_logging()
    training: Training = setup["training"]
    examples: list[Example]
    examples, test_examples = ray.get(list(shared["examples"][training.proposals]))
    result = run_trial(
        shared["config"], training, wave[training], shared["classes"], examples, test_examples
    )
    tune.report({"iterations": result["iterations"], "step_seconds": result["step_seconds"]})


def _is_finished(config: AblateConfig, training: Training, tests: Sequence[Test]) -> bool:
    """Return True if the result of this training holds all these tests."""
    result = read_result(config, training)
    if result is None or "recall" not in result:  # written by a version without recall
        return False
    return {t.name for t in tests} <= set(result["tests"])
