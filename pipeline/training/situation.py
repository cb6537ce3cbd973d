"""What the choices of a training depend on, and what a choice is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline.config.numbers import flag_of
from pipeline.training.label_statistics import LabelStatistics


@dataclass(frozen=True, slots=True)
class Choice:
    """One number or word that no flag gives."""

    name: str
    """`proposals`, or the name of a number, e.g. `model.scale`."""
    value: Any
    reason: str

    @property
    def flag(self) -> str:
        """The flag that gives this value, e.g. `--scale 256`. Another value overrides the choice."""
        return flag_of(self.name, self.value)

    def __str__(self) -> str:
        return f"{self.flag}: {self.reason}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """What the training workers compute on."""

    kind: Literal["cpu", "gpu"]
    where: str
    """How this is known, for the log."""
    memory: float | None = None
    """Bytes of one GPU, if known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Situation:
    """Everything that the choices depend on."""

    labels: LabelStatistics
    device: Device
    given: Mapping[str, Any] = field(default_factory=dict)
    """The numbers that flags give, by name. They are not chosen."""
    proposals: str | None = None
    """--proposals."""
    proposal_mode: str = "fast"
    weights_tell: Mapping[str, Any] = field(default_factory=dict)
    """Numbers of the model that the file of --weights fixes, e.g. `model.backbone`."""
    class_names: tuple[str, ...] = ()
    num_workers: int = 1
    minutes: float | None = None
    """--minutes. Then the number of steps is measured, not chosen here."""
    auto_tile: bool = False
    """--tile auto."""

    @property
    def on_gpu(self) -> bool:
        return self.device.kind == "gpu"
