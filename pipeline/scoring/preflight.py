"""Checks a scoring job before a worker starts, so that the user's mistakes are reported at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from fastrcnn.canary import check_canary
from fastrcnn.checkpoint import Checkpoint
from fastrcnn.config import LEARNED, PROPOSER_SPECS, TABLE, FastRCNNConfig, ProposalConfig
from fastrcnn.config.growth import values_to_hash
from fastrcnn.tiles import Tiling
from pipeline import record, storage
from pipeline.config import ScoreConfig
from pipeline.errors import UserError
from pipeline.images import DECODER_VERSION, IMAGE_SUFFIXES, SampleRules
from pipeline.proposals.candidate import ReadSettings
from pipeline.proposals.table import find_table
from pipeline.record.retries import Retry
from pipeline.scoring.filters import Filter
from pipeline.scoring.packed import ArchiveOptions
from pipeline.scoring.selection import Selection, check_output_outside, select
from pipeline.storage import Access, ListOptions, StorageError
from pipeline.storage.checkpoints import find_checkpoint, load

NOT_HASHED = ("training", "operating_points", "embedding")
"""Keys of a checkpoint's config.json that change no row, so they are not part of the run_id."""
LATER_FLAGS: Mapping[str, object] = {
    "precision": "auto",
    "truncated": "warn",
    "range": None,
    "bands": None,
    "max_detections": None,
    "image_column": None,
}
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
    rules: SampleRules
    """How samples become pixels: the flags, else those that the checkpoint was trained with."""
    tiling: Tiling | None
    """How images are divided into tiles: the flags, else as the checkpoint was trained. None: not at all."""

    @property
    def retry(self) -> Retry:
        """The rows that are tried again."""
        return Retry(
            run_id=self.run_id, statuses=self.config.retried, again=self.config.retry_again
        )

    @property
    def detectors_decode(self) -> bool:
        """Whether only the Detectors decode: nothing before them needs pixels if the model proposes."""
        return self.table is None and self.proposals.spec.learned

    @property
    def in_parts(self) -> bool:
        """Whether the Detectors decode parts of very large images: with tiles, if no proposer needs the whole
        image."""
        needs_pixels = self.table is None and not self.proposals.spec.learned
        several_scales = bool(self.checkpoint.model.config.test_scales)
        return self.tiling is not None and not needs_pixels and not several_scales

    def selected_shards(self) -> set[int] | None:
        """Return the shards to score if --limit excludes others, else None.

        Call `plan.add_planned_images` before.
        """
        return None if self.config.limit is None else self.selection.listed.shards()


def prepare(config: ScoreConfig) -> Job:
    """Load the checkpoint, list the images and compute the run_id. Writes nothing.

    Raises:
        UserError: the checkpoint, the images, the output or the proposals cannot be used.
    """
    check_output_outside(config.images, config.output)
    checkpoint_uri = find_checkpoint(config.checkpoint)
    try:
        checkpoint = load(checkpoint_uri)
        check_canary(checkpoint.model)
        rules = SampleRules.of_checkpoint(checkpoint.config)
    except (StorageError, ValueError) as error:
        raise UserError(
            f"--checkpoint {config.checkpoint}", str(error), "Give a complete checkpoint folder."
        ) from error
    proposals, table = resolve_proposals(config, checkpoint)
    tiling = resolve_tiling(config, checkpoint)
    keep = Filter(include=config.include, exclude=config.exclude)
    archives = ArchiveOptions(open_all=config.archives, image_column=config.image_column)
    selection = select(config.images, config.limit, keep, list_options(config), archives)
    return Job(
        config=config,
        checkpoint_uri=checkpoint_uri,
        checkpoint=checkpoint,
        proposals=proposals,
        table=table,
        selection=selection,
        run_id=record.make_run_id(hashed_facts(config, checkpoint, proposals, table)),
        rules=rules.replaced(config.range, config.bands),
        tiling=tiling,
    )


def list_options(config: ScoreConfig) -> ListOptions:
    """Return how a list of images is read, and what it may name."""
    return ListOptions(
        uri_column=config.uri_column,
        format=config.list_format,
        root=config.list_root,
        access=Access(
            any_scheme=False,
            http=config.allow_http,
            private_hosts=config.allow_private_hosts,
        ),
        image_suffixes=IMAGE_SUFFIXES,
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
    described["model"] = values_to_hash(FastRCNNConfig, described["model"])
    described["proposals"] = values_to_hash(ProposalConfig, described["proposals"])
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
    facts |= _hashed_tiling(resolve_tiling(config, checkpoint), checkpoint)
    if config.fresh:
        facts["decoder_version"] = DECODER_VERSION
    return facts


def _hashed_tiling(tiling: Tiling | None, checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what is hashed of the tiles: nothing if they are those of the checkpoint, which is hashed too.

    So --tile 0 for a detector that was trained without tiles renames no run.
    """
    trained = Tiling.of(checkpoint.model.config)
    if tiling == trained:
        return {}
    if tiling is None:
        return {"tile": 0}
    same_overlap = trained is not None and trained.overlap == tiling.overlap
    return {"tile": tiling.side} | ({} if same_overlap else {"tile_overlap": tiling.overlap})


def resolve_tiling(config: ScoreConfig, checkpoint: Checkpoint) -> Tiling | None:
    """Return how images are divided into tiles: by the flags, else as the checkpoint says.

    Raises:
        UserError: --tile for a detector with an image pyramid, or --tile-overlap without tiles.
    """
    model = checkpoint.model.config
    side = model.tile if config.tile is None else config.tile
    if side and model.pyramid:
        raise UserError(
            f"--tile {side}",
            f"the detector has an image pyramid, {' '.join(map(str, model.pyramid))}",
            "Leave the flag out: tiles and a pyramid exclude each other.",
        )
    if not side and config.tile_overlap is not None:
        raise UserError(
            f"--tile-overlap {config.tile_overlap}",
            "the detector was trained without tiles, and --tile is not given",
            "Add --tile SIDE, or leave this flag out.",
        )
    overlap = model.tile_overlap if config.tile_overlap is None else config.tile_overlap
    return Tiling(side=side, overlap=overlap) if side else None


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


def read_settings(job: Job) -> ReadSettings:
    """Return the settings of the CPU stage."""
    return ReadSettings(
        proposals=job.proposals,
        max_bytes=job.config.max_bytes,
        max_pixels=job.config.max_pixels,
        max_bytes_whole=job.config.max_bytes_whole,
        in_parts=job.in_parts,
        truncated=job.config.truncated,
        table=job.table,
        table_root=job.config.images,
        rules=job.rules,
        tiling=job.tiling,
        access=job.selection.access,
        decode=not job.detectors_decode,
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
        "tile": job.config.tile,
        "tile_overlap": job.config.tile_overlap,
        "max_detections": job.config.max_detections,
        "truncated": job.config.truncated,
        "range": job.rules.range,
        "bands": job.rules.bands,
        "access": job.selection.access,
    }
