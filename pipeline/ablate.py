"""Run the comparisons of the paper on labelled data, one Ray Tune trial per training, and write one table.

<output>/trials/<training>/              checkpoint and result.json of a trial; a finished trial is not
repeated <output>/ablations.md, .parquet, .png    the table: for people, for queries, and as a bar chart
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import ray
from ray import tune

from fastrcnn.config import LEARNED
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
from pipeline.training.data import with_proposals
from pipeline.training.examples import Example
from pipeline.training.initial_weights import initial_model
from pipeline.training.plan import TrainPlan
from pipeline.training.same_run import begun_by_old_rule, check_same_run, claim_output

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
    flags = _with_absolute_uris(config)
    config = flags.settled(begun_by_old_rule(flags))
    wanted = rows(config)
    training = read_labelled_images(config.data, config.split, limit=config.limit)
    test = read_labelled_images(
        config.data, config.test_split, classes=training.classes, limit=config.limit
    )
    trials = _trials(wanted)
    for one, tests in trials.items():  # report flags that cannot be used before any worker starts
        plan = TrainPlan.of(config.training(one), training.classes)
        _check_tests(tests, plan)
    initial_model(plan.model, config.weights, config.seeds[0], training.classes)
    logger.info(
        "%d rows, %d trainings, %d training images, %d test images",
        len(wanted), len(trials), len(training.images), len(test.images),
    )  # fmt: skip
    check_same_run(flags, FREE_FLAGS)
    if config.dry_run:
        for row in wanted:
            logger.info("%s: %s (%s)", row.comparison, row.setting, row.training.name)
        return None
    # The newer console output of Tune prints tables, and folders that are deleted when the job ends.
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    claim_output(flags, FREE_FLAGS)
    cluster.connect(allow_open=config.allow_open_cluster)
    _run_trials(config, wanted, trials, training, test)
    results = results_of(wanted, {t.name: read_result(config, t) for t in trials})
    markdown = as_markdown(config, results)
    for name, data in (
        ("ablations.md", markdown.encode()),
        ("ablations.parquet", as_parquet(results)),
        ("ablations.png", as_png(results)),
    ):
        storage.write_bytes(storage.join(config.output, name), data)
    logger.info("\n%s", markdown)
    return results


def _check_tests(tests: Sequence[Test], plan: TrainPlan) -> None:
    """Raise UserError for a test that is not possible with an RPN."""
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
        weights=weights if weights in ("imagenet", "none") else storage.absolute(weights),
        proposals=storage.absolute(proposals) if find_table(proposals) else proposals,
    )


def _trials(wanted: Sequence[Row]) -> dict[Training, tuple[Test, ...]]:
    """Collect the trainings that rows or other trainings need, each with its tests."""
    trials: dict[Training, dict[Test, None]] = {}
    for row in wanted:
        if row.training.start:
            trials.setdefault(row.training.start, {})
        trials.setdefault(row.training, {})[row.test] = None
    return {training: tuple(tests) for training, tests in trials.items()}


def _run_trials(
    config: AblateConfig,
    wanted: Sequence[Row],
    trials: dict[Training, tuple[Test, ...]],
    training: LabelledImages,
    test: LabelledImages,
) -> None:
    """Run the trials that are not finished: first those that start from `config.weights`, then the others."""
    todo = {t: tests for t, tests in trials.items() if not _is_finished(config, t, tests)}
    logger.info("%d of %d trainings are finished", len(trials) - len(todo), len(trials))
    if not todo:
        return
    examples = {}
    for proposals in dict.fromkeys(one.proposals for one in todo):
        flags = config.training(Training(proposals=proposals))
        plan = TrainPlan.of(flags, training.classes).fitted(training.images)
        both = with_proposals(flags, plan.proposals, training, test)
        examples[proposals] = (ray.put(both[0]), ray.put(both[1]))
    shared = {"config": config, "classes": training.classes, "examples": examples}
    for from_another in (False, True):  # a second stage needs the weights of the first
        wave = {t: tests for t, tests in todo.items() if bool(t.start) == from_another}
        if wave:
            _fit(config, wave, shared)


def _fit(
    config: AblateConfig, wave: dict[Training, tuple[Test, ...]], shared: dict[str, Any]
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
            run_config=tune.RunConfig(name="ablations", storage_path=folder, verbose=0),
        ).fit()
    if results.num_errors:
        cause = (
            str(results.errors[0]).strip().splitlines()[-1]
        )  # the lines before are the traceback, which Ray logs
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
