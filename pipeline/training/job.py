"""What the driver of a training gives to its workers."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from fastrcnn.config import FastRCNNConfig, ProposalConfig, SolverConfig
from pipeline.images.samples import NEUTRAL, SampleRules
from pipeline.training.mlflow_run import Tracking
from pipeline.training.time_budget import Length, TimeBudget


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainJob:
    """Everything a worker needs. What is large is in Ray's object store."""

    model: FastRCNNConfig
    solver: SolverConfig
    classes: tuple[str, ...]
    proposals: ProposalConfig
    num_iterations: int
    validate_every: int
    seed: int
    provenance: dict[str, Any]
    output: str
    """URI of the output. Rank 0 writes TensorBoard files and pictures there."""
    mlflow: Tracking | None
    examples: Any
    """ObjectRef of list[Example]."""
    validation: Any
    """ObjectRef of list[Example]; may be empty."""
    weights: Any
    """ObjectRef of the initial state_dict."""
    listings: Any
    """ObjectRef of list[Listing]: the members of the archives that hold the images."""
    rules: SampleRules = NEUTRAL
    """How samples become pixels."""
    budget: TimeBudget | None = None
    """The time of --minutes. Then the workers measure `num_iterations` and `validate_every`."""
    given_validate_every: int | None = None
    """--validate-every, if it was given."""

    def with_length(self, length: Length) -> TrainJob:
        """Take the number of steps that was measured, also into what the checkpoints say."""
        solver = replace(self.solver, iterations=length.num_iterations, epochs=None)
        provenance = self.provenance | {"solver": asdict(solver), "length": asdict(length)}
        return replace(
            self,
            solver=solver,
            num_iterations=length.num_iterations,
            validate_every=length.validate_every,
            provenance=provenance,
        )
