"""Checks plan and shards before a command scores, and gives errors the promised exit code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ray.exceptions import RayTaskError

from pipeline import record, storage
from pipeline.errors import JobError, UserError
from pipeline.record import plan
from pipeline.record.checks import check_record, move_damaged
from pipeline.record.inspection import damage
from pipeline.record.rebuild import rebuild_plan
from pipeline.scoring.preflight import Job


def checked_plan(job: Job) -> tuple[plan.Plan, list[record.Shard]]:
    """Read the plan, check it and the shards, then check that the store can create exclusively.

    Nothing is written before a plan is known to be right. A dry run without a repair writes nothing at all.
    The planned images are added to the listed ones, for `plan.extend`.

    Returns:
        The plan, and what is known of the run's shards.

    Raises:
        UserError: the plan is lost or damaged, or a shard is damaged.
    """
    config = job.config
    if config.rebuild_plan:
        storage.check_exclusive_create(config.output)
        planned = rebuild_plan(config.output, job.run_id)
    else:
        planned = plan.read(config.output)
    checked = check_record(
        config.output,
        job.run_id,
        planned,
        verify=config.verify,
        every=config.repair or bool(job.retry.statuses),
    )
    if checked.damaged and not config.repair:
        raise damage(checked.causes)
    plan.add_planned_images(checked.plan, job.selection.listed, job.run_id)
    if not config.rebuild_plan and (checked.damaged or not config.dry_run):
        storage.check_exclusive_create(config.output)
    if checked.damaged:
        move_damaged(config.output, job.run_id, checked)
    return checked.plan, list(checked.described)


@contextmanager
def exit_codes(*, scored: bool) -> Iterator[None]:
    """Turn a UserError into a JobError if workers have started: then exit code 2 is never given.

    Args:
        scored: whether the command scores images, so that workers start.
    """
    try:
        yield
    except UserError as error:
        if not scored or isinstance(error, RayTaskError):  # the latter has exit code 1 already
            raise
        raise JobError(str(error)) from error
