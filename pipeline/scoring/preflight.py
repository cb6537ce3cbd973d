"""Checks a scoring job before a worker starts, so that the user's mistakes are reported at once."""

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
from pipeline.config import ScoreConfig
from pipeline.errors import UserError
from pipeline.images import DECODER_VERSION
from pipeline.proposals.reading import ReadSettings
from pipeline.proposals.table import find_table
from pipeline.scoring.selection import Filter, Selection, check_apart, select
from pipeline.storage import StorageError
from pipeline.storage.checkpoints import find_checkpoint, load

logger = logging.getLogger(__name__)


NOT_HASHED = ("training", "operating_points", "embedding")
"""Keys of a checkpoint's config.json that change no row, so they are not part of the run_id."""
LATER_FLAGS: Mapping[str, object] = {"precision": "auto"}
"""Flags that change rows and were added after run ids existed (about 2026-11-29), each with the value that
means "as before". This value never changes, even if the default of the flag does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A scoring job whose configuration has been checked."""

    config: ScoreConfig
    checkpoint_uri: str
    """The folder with config.json."""
    checkpoint: Checkpoint
    proposals: ProposalConfig
    """The proposer. If the proposals come from a table, its name is `table`."""
    table: str | None
    """URI of the proposals table, if there is one."""
    selection: Selection
    run_id: str

    def only(self) -> set[int] | None:
        """Return the shards to score if --limit excludes others, else None. Call `plan.compare` before."""
        return None if self.config.limit is None else self.selection.listed.shards()


@dataclass(frozen=True, kw_only=True, slots=True)
class Resources:
    """The CPUs and GPUs of the cluster, and how the two stages share them."""

    cpus: float
    """CPUs of the cluster."""
    gpus: float
    """GPUs of the cluster."""
    workers: int
    """The largest number of Detector actors."""
    detector_cpus: float
    """CPUs of each Detector."""
    detector_gpus: float
    """GPUs of each Detector."""
    read_cpus: float
    """CPUs of each task of the CPU stage."""


def prepare(config: ScoreConfig) -> Job:
    """Load the checkpoint, list the images and compute the run_id. Writes nothing.

    Raises:
        UserError: the checkpoint, the images, the output or the proposals cannot be used.
    """
    check_apart(config.images, config.output)
    checkpoint_uri = find_checkpoint(config.checkpoint)
    try:
        checkpoint = load(checkpoint_uri)
        check_canary(checkpoint.model)
    except (StorageError, ValueError) as error:
        raise UserError(
            f"--checkpoint {config.checkpoint}", str(error), "Give a complete checkpoint folder."
        ) from error
    proposals, table = resolve_proposals(config, checkpoint)
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
    """Return the facts that are hashed to the run_id.

    Every fact that was hashed on 2026-11-29 is still hashed in the same way. A fact that was added later is
    hashed only if its value is not the one that means "as before", so that an upgrade renames no run. For
    fields of the configs, `fastrcnn.config.growth` has this value; for flags, `LATER_FLAGS`.

    Args:
        config: the flags.
        checkpoint: the detector.
        proposals: the proposer, with the seed of the run.
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


def resolve_proposals(
    config: ScoreConfig, checkpoint: Checkpoint
) -> tuple[ProposalConfig, str | None]:
    """Return the proposer and the URI of the proposals table, if there is one.

    Without --proposals, it is the proposer that the detector was trained with.

    Raises:
        UserError: the proposer or the table does not exist; the detector was trained on a table and no table
            is given; or the proposals are those of an RPN and the detector has no RPN.
    """
    name = config.proposals or checkpoint.proposals.name
    spec = PROPOSER_SPECS.get(name)
    if spec and spec.precomputed:
        raise UserError(
            f"--checkpoint {config.checkpoint}",
            "was trained on a table of proposals",
            "Give --proposals with the URI of a table for these images.",
        )
    table = find_table(name)
    if spec and spec.learned and checkpoint.model.rpn is None:
        raise UserError(
            f"--proposals {LEARNED}",
            f"the detector has no RPN: it was trained on {checkpoint.proposals.name}",
            f"Leave the flag out, or train a detector with jobs/train.py --proposals {LEARNED}.",
        )
    proposals, chosen = checkpoint.proposals, TABLE if table else name
    if (
        chosen != proposals.name
    ):  # the modes and settings in the checkpoint are for another proposer
        proposals = ProposalConfig(name=chosen, max_boxes=proposals.max_boxes)
    return replace(proposals, seed=config.seed), table


def size_cluster(
    config: ScoreConfig, available: Mapping[str, float], nodes: Sequence[float] = ()
) -> Resources:
    """Divide the cluster so that both stages can always run: Detectors never take the last CPU.

    Args:
        config: gives --num-workers and --gpus-per-worker.
        available: the result of `ray.cluster_resources()`.
        nodes: CPUs of each node. Empty means that one node has them all.

    Raises:
        UserError: the cluster has no CPU, or fewer GPUs than --gpus-per-worker.
    """
    cpus, gpus = available.get("CPU", 0.0), available.get("GPU", 0.0)
    if cpus <= 0:
        raise UserError("the Ray cluster", "has no CPU", "Start a worker node first.")
    wanted = config.gpus_per_worker if config.gpus_per_worker is not None else min(1.0, gpus)
    if wanted > gpus:
        raise UserError(
            f"--gpus-per-worker {wanted:g}",
            f"the cluster has {gpus:g} GPUs",
            "Start a node with GPUs first, or give 0.",
        )
    if wanted > 0:
        room = int(gpus / wanted)
        workers = min(config.num_workers or room, room)
        # A Detector on a GPU uses its CPU only to decode and upload; the other CPUs read and propose.
        detector_cpus = min(0.5, (cpus - min(1.0, cpus / 2)) / workers)
        left = cpus - workers * _floored(detector_cpus)
    else:
        workers, detector_cpus, left = _share_cpus(config.num_workers, cpus, nodes)
    if config.num_workers is not None and workers < config.num_workers:
        logger.warning(
            "--num-workers %d: the cluster has room for %d, so %d are used",
            config.num_workers,
            workers,
            workers,
        )
    return Resources(
        cpus=cpus,
        gpus=gpus,
        workers=workers,
        detector_cpus=_floored(detector_cpus),
        detector_gpus=wanted,
        # Below one CPU, because a read waits for the network part of the time. It must differ from
        # detector_cpus: if both are equal, Ray Data fuses the stages, and nothing reads during detection.
        read_cpus=0.9 * min(1.0, left),
    )


def _share_cpus(
    wanted: int | None, cpus: float, nodes: Sequence[float]
) -> tuple[int, float, float]:
    """Divide the CPUs among Detectors and reading. Reading and proposing are a tenth to a fifth of the work.

    If no node has four CPUs, each node is divided by itself, so that a read has room beside the Detectors of
    its node. Two nodes with one CPU each, divided like one node with two, scored half as many images per
    second.

    Returns:
        The number of Detectors, the CPUs of each, and the CPUs that are left for reading.
    """
    largest = max(nodes, default=0.0) or cpus
    # What is divided: each small node, or the whole cluster as one node.
    size, count = (largest, int(cpus / largest)) if largest < 4 else (cpus, 1)
    reading = max(size / 4, min(0.5, size / 2))
    room = int(size) if 1 <= size < 4 else max(1, int(size - reading))
    workers = min(wanted or room * count, room * count)
    per_node = -(-workers // count)
    detector_cpus = min(1.0, (size - reading) / per_node)
    return workers, detector_cpus, size - per_node * _floored(detector_cpus)


def _floored(cpus: float) -> float:
    return int(100 * cpus) / 100


def read_settings(job: Job) -> ReadSettings:
    """Return the settings of the CPU stage."""
    return ReadSettings(
        proposals=job.proposals,
        max_bytes=job.config.max_bytes,
        max_pixels=job.config.max_pixels,
        table=job.table,
        table_root=job.config.images,
    )


def detector_settings(job: Job) -> dict[str, Any]:
    """Return the constructor arguments of the Detectors that do not depend on the hardware."""
    return {
        "checkpoint": job.checkpoint_uri,
        "run_id": job.run_id,
        "model_id": job.checkpoint.model_id,
        "score_threshold": job.config.score_threshold,
        "precision": job.config.precision,
        "compile": job.config.compile,
        "max_pixels": job.config.max_pixels,
    }
