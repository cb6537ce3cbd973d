"""Reads what runs/<run_id>/config.json says about a scoring run: its flags and its checkpoint.

An older run has fewer entries, and the folder of a run may have been copied without this file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline import storage
from pipeline.detections import min_scores
from pipeline.errors import UserError
from pipeline.images.samples import SampleRules
from pipeline.results.scored import RunFiles

AP_NEEDS = 0.05
"""Average precision needs the boxes down to this score, before calibration. It is the score threshold of
`--preset modern`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """The flags of a scoring run and the config.json of its checkpoint. Empty if there is no such file."""

    uri: str
    flags: Mapping[str, Any]
    checkpoint: Mapping[str, Any]

    @property
    def rules(self) -> SampleRules:
        """How the run turned samples into pixels."""
        chosen = SampleRules.of_json(self.flags.get("range"), self.flags.get("bands"))
        return SampleRules.of_checkpoint(self.checkpoint).replaced(chosen.range, chosen.bands)

    @property
    def has_points(self) -> bool:
        """Whether the checkpoint has operating points."""
        return bool(self.checkpoint.get("operating_points"))

    def points(self, classes: tuple[str, ...]) -> dict[str, float]:
        """Give the score of each class from which people look at boxes: its operating point, or .5.

        Raises:
            UserError: the operating points are no scores of these classes.
        """
        try:
            scores = min_scores(self.checkpoint, classes, self.uri)
        except ValueError as error:
            raise UserError(
                self.uri,
                f"has operating points that are no scores of the classes {', '.join(classes)}",
                "Restore the file from a backup.",
            ) from error
        return dict(zip(classes, scores.tolist(), strict=True))

    @property
    def most_boxes(self) -> int | None:
        """The largest number of boxes of an image. None: the run has tiles, or unknown."""
        model = self.checkpoint.get("model", {})
        tile = model.get("tile") if self.flags.get("tile") is None else self.flags["tile"]
        most = self.flags.get("max_detections") or model.get("detections_per_image")
        return None if tile or not isinstance(most, int) else most

    @property
    def cut(self) -> float | None:
        """The score below which the run has no boxes, although average precision needs them. None: the run
        has all that are needed, or config.json does not say it."""
        model = self.checkpoint.get("model", {})
        given, threshold = self.flags.get("score_threshold"), model.get("score_threshold")
        if model.get("classifier", "softmax") != "softmax" or (given is None and threshold is None):
            return None
        curves = model.get("calibration")
        before = threshold if given is None else given
        if given is not None and curves:
            from fastrcnn.calibration import uncalibrate  # imports torch

            before = float(uncalibrate(given, curves).max())
        cut = threshold if given is None else given
        return float(cut) if before > AP_NEEDS + 1e-6 else None


def read_run_config(files: RunFiles) -> RunConfig:
    """Read the config of a run.

    Raises:
        UserError: the file does not describe a scoring run.
    """
    uri = storage.join(files.root, "runs", files.run_id, "config.json")
    if not storage.exists(uri):
        return RunConfig(uri=uri, flags={}, checkpoint={})
    try:
        described = json.loads(storage.read_bytes(uri))
        config = RunConfig(
            uri=uri,
            flags=dict(described.get("config", {})),
            checkpoint=dict(described.get("checkpoint", {})),
        )
        _ = config.rules, config.cut  # refused here, with the name of the file
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(
            uri, f"does not describe a scoring run ({error})", "Restore the file from a backup."
        ) from error
    return config
