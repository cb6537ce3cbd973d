"""Ray lives here: training, scoring, the record. Imports `fastrcnn`; is imported by `jobs`.

`Detector` and `Detections` are imported when they are asked for: the first needs torch, which `--help` of a
job does not.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fastrcnn import __version__

if TYPE_CHECKING:
    from pipeline.detections import Detections
    from pipeline.detector import Detector

__all__ = ["Detections", "Detector", "__version__"]

_MODULES = {"Detections": "pipeline.detections", "Detector": "pipeline.detector"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
