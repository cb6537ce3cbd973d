"""Every number of model, training and proposals, with its source. Imports neither torch nor numpy.

model       FastRCNNConfig     the checkpoint stores it; scoring reads it from there
rpn         RPNConfig          a region proposal network, part of the model
proposals   ProposalConfig     the proposer, stored likewise
solver      SolverConfig       training
ranges      the values that a field takes
growth      how configs gain fields, and the hashes of old ones stay
"""

from fastrcnn.config.growth import FIRST, LATER, hashed
from fastrcnn.config.model import (
    BACKBONES,
    PYRAMID,
    PYRAMID_MAX_SIZE,
    Classifier,
    FastRCNNConfig,
    Pooling,
)
from fastrcnn.config.proposals import (
    LEARNED,
    PROPOSAL_MODES,
    SELECTIVE_SEARCH_MODES,
    ProposalConfig,
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
    "PROPOSAL_MODES",
    "PYRAMID",
    "PYRAMID_MAX_SIZE",
    "SELECTIVE_SEARCH_MODES",
    "SIDES",
    "STANDARD_RATIOS",
    "Classifier",
    "FastRCNNConfig",
    "FieldError",
    "Pooling",
    "ProposalConfig",
    "RPNConfig",
    "Schedule",
    "SelectiveSearchMode",
    "SolverConfig",
    "Trained",
    "hashed",
    "sides_per_level",
    "standard_sides",
]
