"""The flags of every job: one frozen dataclass per job, one field per flag. `__post_init__` checks the
values.

The docstring below a field is its text in --help. Nothing here imports torch, Ray or pyarrow, so --help and
errors about flags are fast.
"""

from pipeline.config.checks import check_above_zero, check_not_negative, check_uris
from pipeline.config.counting import EstimateConfig, SampleConfig
from pipeline.config.results import CompactConfig, EvaluateConfig, ExportConfig, ReportConfig
from pipeline.config.score import Precision, ScoreConfig
from pipeline.config.tools import (
    CompressConfig,
    DrawConfig,
    ExportProposalsConfig,
    ImportConfig,
)
from pipeline.config.train import Preset, TrainConfig

__all__ = [
    "CompactConfig",
    "CompressConfig",
    "DrawConfig",
    "EstimateConfig",
    "EvaluateConfig",
    "ExportConfig",
    "ExportProposalsConfig",
    "ImportConfig",
    "Precision",
    "Preset",
    "ReportConfig",
    "SampleConfig",
    "ScoreConfig",
    "TrainConfig",
    "check_above_zero",
    "check_not_negative",
    "check_uris",
]
