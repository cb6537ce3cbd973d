"""Ray lives here: training, scoring, the record. Imports `fastrcnn`; is imported by `jobs`.

`Detector` and `Detections` are imported when they are asked for: the first needs torch, which `--help` of a
job does not. A job configures the log when it starts. In a notebook, importing this package does it
(`show_log`), because otherwise a job that is called from a cell seems to do nothing.
"""

from __future__ import annotations

import logging
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from fastrcnn import __version__

if TYPE_CHECKING:
    from pipeline.detections import Detections
    from pipeline.detector import Detector

__all__ = ["Detections", "Detector", "__version__"]

_MODULES = {"Detections": "pipeline.detections", "Detector": "pipeline.detector"}


def show_log(level: int = logging.INFO) -> None:
    """Print the log lines of this package to stdout, as a job does to stderr.

    A second call changes the level. Other packages' loggers stay as they are.

    Args:
        level: the lowest level that is printed, such as logging.WARNING.
    """
    for name in ("fastrcnn", "pipeline"):
        logger = logging.getLogger(name)
        logger.setLevel(level)
        if not any(isinstance(handler, _CellHandler) for handler in logger.handlers):
            handler = _CellHandler()
            handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
            logger.addHandler(handler)
            logger.propagate = False


class _CellHandler(logging.Handler):
    """Prints to what stdout is at that moment: a notebook replaces it for each cell."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one line."""
        sys.stdout.write(f"{self.format(record)}\n")
        sys.stdout.flush()


if "ipykernel" in sys.modules and not logging.getLogger().handlers:
    show_log()


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
