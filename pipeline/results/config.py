"""The place of three configs until 2026-11-29. They live in `pipeline.config` now; docs/python.md names that."""

from pipeline.config import CompactConfig, ExportConfig, ReportConfig

__all__ = ["CompactConfig", "ExportConfig", "ReportConfig"]
