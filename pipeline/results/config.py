"""The place of three configs until 2026-11-29, which docs/python.md named. They live in `pipeline.config`
now."""

from pipeline.config import CompactConfig, ExportConfig, ReportConfig

__all__ = ["CompactConfig", "ExportConfig", "ReportConfig"]
