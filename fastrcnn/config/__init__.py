"""Every number of model, training and proposals, with its source. Imports neither torch nor numpy.

model       FastRCNNConfig     the checkpoint stores it; scoring reads it from there
rpn         RPNConfig          a region proposal network, part of the model
proposals   ProposalConfig     the proposer and its settings, stored likewise
proposers   ProposerSpec       everything that depends on a proposer's name
solver      SolverConfig       training
ranges      the values that a field takes
growth      how configs gain fields without changing old hashes

Everything that depends on a backbone's name is in `fastrcnn.backbones`.
"""

from fastrcnn.config.growth import FIRST, LATER, values_to_hash
from fastrcnn.config.model import (
    BACKBONES,
    PYRAMID,
    PYRAMID_MAX_SIZE,
    Classifier,
    FastRCNNConfig,
    Pooling,
)
from fastrcnn.config.proposals import ProposalConfig
from fastrcnn.config.proposers import (
    LEARNED,
    PROPOSER_SPECS,
    SELECTIVE_SEARCH_MODES,
    TABLE,
    ProposerSpec,
    SelectiveSearchMode,
)
from fastrcnn.config.ranges import FieldError
from fastrcnn.config.rpn import (
    SIDES,
    STANDARD_RATIOS,
    RPNConfig,
    sides_per_level,
    standard_sides,
)
from fastrcnn.config.solver import Schedule, SolverConfig, Trained

__all__ = [
    "BACKBONES",
    "FIRST",
    "LATER",
    "LEARNED",
    "PROPOSER_SPECS",
    "PYRAMID",
    "PYRAMID_MAX_SIZE",
    "SELECTIVE_SEARCH_MODES",
    "SIDES",
    "TABLE",
    "STANDARD_RATIOS",
    "Classifier",
    "FastRCNNConfig",
    "FieldError",
    "Pooling",
    "ProposalConfig",
    "ProposerSpec",
    "RPNConfig",
    "Schedule",
    "SelectiveSearchMode",
    "SolverConfig",
    "Trained",
    "sides_per_level",
    "standard_sides",
    "values_to_hash",
]
