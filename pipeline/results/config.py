"""Keeps three import paths that docs/python.md named until 2026-11-29; see `pipeline.config`."""

from pipeline.config import CompactConfig, ExportConfig, ReportConfig

__all__ = ["CompactConfig", "ExportConfig", "ReportConfig"]
