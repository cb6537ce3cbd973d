"""Everything about a scoring job that is the user's to mend, found out before a worker starts."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fastrcnn.canary import check_canary
from fastrcnn.checkpoint import Checkpoint
from fastrcnn.config import LEARNED, PROPOSER_SPECS, TABLE, FastRCNNConfig, ProposalConfig
from fastrcnn.config.growth import hashed
from pipeline import record, storage
from pipeline.checkpoints import find_checkpoint, load
from pipeline.config import ScoreConfig
from pipeline.errors import UserError
from pipeline.images import DECODER_VERSION
from pipeline.proposals_table import find_table
from pipeline.reading import ReadSettings
from pipeline.scoring.selection import Filter, Selection, check_apart, select
from pipeline.storage import StorageError

logger = logging.getLogger(__name__)


NOT_HASHED = ("training", "operating_points", "embedding")
"""Parts of a checkpoint's config.json that change no row."""
LATER_FLAGS: Mapping[str, object] = {"precision": "auto"}
"""Flags that change rows and came after 2026-11-29 or close before it, and the value that means "as before".
That value never changes, even if the flag's default does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A checked configuration."""

    config: ScoreConfig
    checkpoint_uri: str
    """The folder with config.json."""
    checkpoint: Checkpoint
    proposals: ProposalConfig
    """Its name is `table` where `table` is given."""
    table: str | None
    """URI of the proposals table."""
    selection: Selection
    run_id: str

    def only(self) -> set[int] | None:
        """The shards to score, where --limit leaves out others; asked when the plan has been compared."""
        return None if self.config.limit is None else self.selection.listed.shards()


@dataclass(frozen=True, kw_only=True, slots=True)
class Resources:
    """How the cluster is divided."""

    cpus: float
    """Of the cluster."""
    gpus: float
    """Of the cluster."""
    workers: int
    """Detector actors at most."""
    detector_cpus: float
    """Of each."""
    detector_gpus: float
    """Of each."""
    read_cpus: float
    """Of each task of the CPU stage."""


def prepare(config: ScoreConfig) -> Job:
    """Load the checkpoint, list the images, and name the run; writes nothing.

    Raises:
        UserError: the checkpoint, the images, the output or the proposals are not usable.
    """
    check_apart(config.images, config.output)
    checkpoint_uri = find_checkpoint(config.checkpoint)
    try:
        checkpoint = load(checkpoint_uri)
        check_canary(checkpoint.model)
    except (StorageError, ValueError) as error:
        raise UserError(
            f"--checkpoint {config.checkpoint}", str(error), "Give a whole checkpoint folder."
        ) from error
    proposals, table = choose_proposals(config, checkpoint)
    keep = Filter(include=config.include, exclude=config.exclude)
    selection = select(config.images, config.limit, keep)
    return Job(
        config=config,
        checkpoint_uri=checkpoint_uri,
        checkpoint=checkpoint,
        proposals=proposals,
        table=table,
        selection=selection,
        run_id=record.make_run_id(hashed_facts(config, checkpoint, proposals, table)),
    )


def hashed_facts(
    config: ScoreConfig, checkpoint: Checkpoint, proposals: ProposalConfig, table: str | None
) -> dict[str, Any]:
    """What the run_id is the hash of.

    Every fact that was hashed on 2026-11-29 is hashed as it was then. What came later counts only where it is
    not as before, so that an upgrade renames no run: fields of the configs by `fastrcnn.config.growth`, flags
    by `LATER_FLAGS`.

    Args:
        config: the flags.
        checkpoint: the detector.
        proposals: the proposer, with the run's seed.
        table: URI of a proposals table, or None.
    """
    described = {k: v for k, v in checkpoint.config.items() if k not in NOT_HASHED}
    described["model"] = hashed(FastRCNNConfig, described["model"])
    described["proposals"] = hashed(ProposalConfig, described["proposals"])
    objects = storage.list_objects(table) if table else []
    facts = {
        "model_id": checkpoint.model_id,
        "checkpoint": described,
        "proposals": proposals.settings(),
        "table": [(item.uri, item.etag) for item in objects],
        "score_threshold": config.score_threshold,
        "max_bytes": config.max_bytes,
        "max_pixels": config.max_pixels,
    }
    later = {name: getattr(config, name) for name in LATER_FLAGS}
    facts |= {name: value for name, value in later.items() if value != LATER_FLAGS[name]}
    if config.fresh:
        facts["decoder_version"] = DECODER_VERSION
    return facts


def choose_proposals(
    config: ScoreConfig, checkpoint: Checkpoint
) -> tuple[ProposalConfig, str | None]:
    """The proposer the detector was trained with, unless --proposals names another or a table (its URI).

    Raises:
        UserError: no such proposer, no such table, a detector trained on a table and none given, or an RPN's
            proposals of a detector that has none.
    """
    name = config.proposals or checkpoint.proposals.name
    spec = PROPOSER_SPECS.get(name)
    if spec and spec.precomputed:
        raise UserError(
            f"--checkpoint {config.checkpoint}",
            "was trained on a table of proposals",
            "Give --proposals: the URI of a table for these images.",
        )
    table = find_table(name)
    if spec and spec.learned and checkpoint.model.rpn is None:
        raise UserError(
            f"--proposals {LEARNED}",
            f"the detector has no RPN: it was trained on {checkpoint.proposals.name}",
            f"Leave it out, or train one with jobs/train.py --proposals {LEARNED}.",
        )
    own, chosen = checkpoint.proposals, TABLE if table else name
    if chosen != own.name:  # its modes and settings are another proposer's
        own = ProposalConfig(name=chosen, max_boxes=own.max_boxes)
    return replace(own, seed=config.seed), table


def size_cluster(
    config: ScoreConfig, available: Mapping[str, float], nodes: Sequence[float] = ()
) -> Resources:
    """Divide the cluster so that both stages can always run: Detectors never take the last CPU.

    Args:
        config: --num-workers and --gpus-per-worker.
        available: `ray.cluster_resources()`.
        nodes: CPUs of each node; none given: one has them all.

    Raises:
        UserError: no CPU, or fewer GPUs than one Detector was to have.
    """
    cpus, gpus = available.get("CPU", 0.0), available.get("GPU", 0.0)
    if cpus <= 0:
        raise UserError("the Ray cluster", "has no CPU", "Start a worker node first.")
    wanted = config.gpus_per_worker if config.gpus_per_worker is not None else min(1.0, gpus)
    if wanted > gpus:
        raise UserError(
            f"--gpus-per-worker {wanted:g}",
            f"the cluster has {gpus:g} GPUs",
            "Start a node with a GPU first, or give 0.",
        )
    if wanted > 0:
        room = int(gpus / wanted)
        workers = min(config.num_workers or room, room)
        # A GPU Detector only decodes and feeds; the other CPUs read and propose.
        detector_cpus = min(0.5, (cpus - min(1.0, cpus / 2)) / workers)
        left = cpus - workers * _floored(detector_cpus)
    else:
        workers, detector_cpus, left = _share_cpus(config.num_workers, cpus, nodes)
    if config.num_workers is not None and workers < config.num_workers:
        logger.warning("--num-workers %d: the cluster has room for %d", config.num_workers, workers)
    return Resources(
        cpus=cpus,
        gpus=gpus,
        workers=workers,
        detector_cpus=_floored(detector_cpus),
        detector_gpus=wanted,
        # Part of the time a read waits for the network. And were the two stages' CPUs equal, Ray Data would
        # fuse them into the Detectors, and nothing would read while they detect.
        read_cpus=0.9 * min(1.0, left),
    )


def _share_cpus(
    wanted: int | None, cpus: float, nodes: Sequence[float]
) -> tuple[int, float, float]:
    """Detectors on CPUs: how many, the CPUs of each, and what is left for reading and proposing, which are a
    tenth to a fifth of the work.

    Where no node has four CPUs each is divided by itself, for a read must find room beside its Detectors: two
    nodes of one CPU, divided as one of two, made half the images a second.
    """
    largest = max(nodes, default=0.0) or cpus
    own, count = (largest, int(cpus / largest)) if largest < 4 else (cpus, 1)
    reading = max(own / 4, min(0.5, own / 2))
    room = int(own) if 1 <= own < 4 else max(1, int(own - reading))
    workers = min(wanted or room * count, room * count)
    each = -(-workers // count)  # on a node
    detector_cpus = min(1.0, (own - reading) / each)
    return workers, detector_cpus, own - each * _floored(detector_cpus)


def _floored(cpus: float) -> float:
    return int(100 * cpus) / 100


def read_settings(job: Job) -> ReadSettings:
    """What the job's CPU stage is told."""
    return ReadSettings(
        proposals=job.proposals,
        max_bytes=job.config.max_bytes,
        max_pixels=job.config.max_pixels,
        table=job.table,
        table_root=job.config.images,
    )


def detector_settings(job: Job) -> dict[str, Any]:
    """What the job's Detectors are made with, whatever they run on."""
    return {
        "checkpoint": job.checkpoint_uri,
        "run_id": job.run_id,
        "model_id": job.checkpoint.model_id,
        "score_threshold": job.config.score_threshold,
        "precision": job.config.precision,
        "compile": job.config.compile,
        "max_pixels": job.config.max_pixels,
    }
