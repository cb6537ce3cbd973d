"""Read the run.json of an output: the rules that its run began with.

A rule is an entry of run.json that is no flag. A run that lacks it began before the rule, and keeps what was
done before.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from pipeline import storage
from pipeline.errors import UserError

RULE, SAME_EFFECT = "numbers", "one door"
"""Key and value of an entry of run.json. Since 2026-11-30 it says that all flags for a number have the same
effect. For outputs without it, see `pipeline.config.numbers.by_old_rule`."""
SPLIT_RULE, BY_ROLE = "splits", "by role"
"""Key and value of an entry of a training's run.json. It says that the split to validate on is chosen by its
role, and that --limit holds for it too. Without it, only `val` is chosen, and read whole."""
LABEL_RULE, CHECKED = "labels", "checked"
"""Key and value of an entry of run.json. It says that crowds are ignored regions, and that stated image sizes
are compared with the images. Without it, crowds are left out, and other sizes are only reported."""
FIT_RULE, UPRIGHT = "fit", "upright"
"""Key and value of an entry of a training's run.json. It says that anchors and grids are fitted to boxes that
were turned as EXIF says. Without it, they are fitted to the boxes as labelled."""

RECIPE_RULE, FROM_DATA = "recipe", "from the data"
"""Key and value of an entry of a training's run.json. It says that what no flag gives is chosen from the
data. Without it, preset and proposals that are not given are those of `with_named_preset`."""
RECIPE_FILE = "recipe.json"
"""File in the output with what was chosen, see `pipeline.training.chosen`."""
CALIBRATION_RULE, FITTED = "calibration", "fitted"
"""Key and value of an entry of a training's run.json. It says that the model's number `calibrate` decides
whether scores are calibrated. Without it, they are not, and no image is held out for it."""
WEIGHTS_RULE, NEWEST = "imagenet", "newest"
"""Key and value of an entry of run.json. It says that the weights `imagenet` are torchvision's newest.
Without it, they are the first ones, `imagenet_v1`."""
REVISION_RULE = "backbone_revision"
"""Key of an entry of run.json: the revision of the weights of `--backbone timm/NAME`."""
RULES = frozenset(
    (RULE, SPLIT_RULE, LABEL_RULE, FIT_RULE, RECIPE_RULE, CALIBRATION_RULE, WEIGHTS_RULE)
    + (REVISION_RULE,)
)
"""The keys of run.json that are no flags."""


@dataclass(frozen=True, slots=True)
class StoredRun:
    """The run.json of an output, read once."""

    content: Mapping[str, Any] | None
    """None if the output holds no run."""

    @classmethod
    def read(cls, config: Any) -> Self:
        """Read the run.json in `config.output`. Raises `UserError` if it is no JSON object."""
        uri = storage.join(config.output, "run.json")
        return cls(read_object(uri) if storage.exists(uri) else None)

    @property
    def old_numbers(self) -> bool:
        """Whether the run is from before 2026-11-30, when flags for one number had different effects."""
        return self._lacks(RULE, SAME_EFFECT)

    @property
    def exact_splits(self) -> bool:
        """Whether the run is from before splits had roles."""
        return self._lacks(SPLIT_RULE, BY_ROLE)

    @property
    def unchecked_labels(self) -> bool:
        """Whether the run is from before stated sizes were compared and crowds were ignored regions."""
        return self._lacks(LABEL_RULE, CHECKED)

    @property
    def fits_as_labelled(self) -> bool:
        """Whether the run is from before anchors and grids were fitted to upright boxes."""
        return self._lacks(FIT_RULE, UPRIGHT)

    @property
    def before_recipe(self) -> bool:
        """Whether the run is from before numbers were chosen from the data."""
        return self._lacks(RECIPE_RULE, FROM_DATA)

    @property
    def uncalibrated(self) -> bool:
        """Whether the run is from before trainings calibrated their scores."""
        return self._lacks(CALIBRATION_RULE, FITTED)

    @property
    def revision(self) -> str | None:
        """The revision of the backbone's weights with which the run began."""
        return None if self.content is None else self.content.get(REVISION_RULE)

    def weights(self, given: str) -> str:
        """Give the weights to start from: `imagenet` means those that the run began with."""
        first = given == "imagenet" and self._lacks(WEIGHTS_RULE, NEWEST)
        return "imagenet_v1" if first else given

    def _lacks(self, rule: str, value: str) -> bool:
        return self.content is not None and self.content.get(rule) != value


def read_object(uri: str) -> dict[str, Any]:
    """Read a JSON object of an earlier run. Raise UserError if it is none."""
    with storage.driver_errors(uri):
        data = storage.read_bytes(uri)
    try:
        value = json.loads(data)
    except ValueError as error:
        raise UserError(uri, f"is not valid JSON ({error})", "Give another --output.") from error
    if not isinstance(value, dict):
        raise UserError(uri, "is not a JSON object", "Give another --output.")
    return value
