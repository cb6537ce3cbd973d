"""A Detector's stand-in that dies with its process on one image. Without torch, so that its next
incarnation, of which the test needs three, starts in a second."""

from __future__ import annotations

import os
import signal

import pyarrow as pa

from pipeline.schema import RESULT
from pipeline.scoring.attempts import Attempts, attempt


class Poisoned:
    """Dies whenever its batch holds `poison`, a URI."""

    def __init__(self, poison: str, attempts: Attempts) -> None:
        self._poison = poison
        self._attempts = attempts

    def __call__(self, candidates: pa.Table) -> pa.Table:
        return attempt(candidates, self._work, self._fail, stage="detect", attempts=self._attempts)

    def _work(self, candidates: pa.Table) -> pa.Table:
        if self._poison in candidates["image_uri"].to_pylist():
            os.kill(os.getpid(), signal.SIGKILL)
        return self._results(candidates, {})

    def _fail(self, candidates: pa.Table, cause: str) -> pa.Table:
        return self._results(candidates, {"status": "failed", "error": cause})

    def _results(self, candidates: pa.Table, change: dict[str, str]) -> pa.Table:
        rows = [row | change for row in candidates.to_pylist()]
        shared = [{name: row.get(name) for name in RESULT.names} for row in rows]
        return pa.Table.from_pylist(shared, schema=RESULT)
