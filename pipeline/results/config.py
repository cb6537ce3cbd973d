"""The place of three configs until 2026-11-29, still importable. They live in `pipeline.config`."""

from pipeline.config import CompactConfig, ExportConfig, ReportConfig

__all__ = ["CompactConfig", "ExportConfig", "ReportConfig"]
