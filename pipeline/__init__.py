"""Ray lives here: training, scoring, the record. Imports `fastrcnn`; is imported by `jobs`.

`Detector` is imported when it is asked for: it needs torch, which `--help` of a job does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastrcnn import __version__

if TYPE_CHECKING:
    from pipeline.detector import Detector

__all__ = ["Detector", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "Detector":
        from pipeline.detector import Detector

        return Detector
    raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
