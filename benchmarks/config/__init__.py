"""Flags of the benchmarks, one class each. Nothing here imports anything heavy, so that --help is fast."""

from benchmarks.config.results import OtherImagesConfig, SuspectsBenchmarkConfig
from benchmarks.config.scoring import (
    ArchivesConfig,
    DecodeConfig,
    DetectorBenchmarkConfig,
    FeedConfig,
    HeadConfig,
    LabelsConfig,
    MemoryConfig,
    ProposalsConfig,
    SahiConfig,
    ScaleConfig,
    ScoreBenchmarkConfig,
    StartUpConfig,
)
from benchmarks.config.training import (
    AccuracyConfig,
    FirstTrainingConfig,
    ProposersConfig,
    RecipeConfig,
    TilesConfig,
    TrainBenchmarkConfig,
)

__all__ = [
    "AccuracyConfig",
    "ArchivesConfig",
    "DecodeConfig",
    "DetectorBenchmarkConfig",
    "FeedConfig",
    "FirstTrainingConfig",
    "HeadConfig",
    "LabelsConfig",
    "MemoryConfig",
    "OtherImagesConfig",
    "ProposalsConfig",
    "ProposersConfig",
    "RecipeConfig",
    "SahiConfig",
    "ScaleConfig",
    "ScoreBenchmarkConfig",
    "StartUpConfig",
    "SuspectsBenchmarkConfig",
    "TilesConfig",
    "TrainBenchmarkConfig",
]
