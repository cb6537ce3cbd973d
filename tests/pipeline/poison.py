"""Stages that die with their process on one image. Without torch, so that the next process, of which a test
needs three, starts in a second."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from fastrcnn.config import ProposalConfig
from fastrcnn.tiles import Tiling
from pipeline.images import SampleRules, Truncated, decoding
from pipeline.images.jpeg import Jpeg
from pipeline.proposals.cache import propose_batch
from pipeline.runtime.attempts import Attempts
from pipeline.runtime.guard import Failure, attempt
from pipeline.schema import RESULT

DEADLY_WIDTH = 47


def propose_batch_or_die(
    rows: pa.Table,
    config: ProposalConfig,
    attempts: Attempts,
    rules: SampleRules,
    truncated: Truncated,
    tiling: Tiling | None,
) -> Iterator[pa.Table]:
    """`propose_batch`, in a process whose JPEG decoder kills it on an image `DEADLY_WIDTH` wide."""
    plain = decoding._decode_plain

    def deadly(data: bytes, jpeg: Jpeg) -> npt.NDArray[np.uint8] | None:
        if jpeg.width == DEADLY_WIDTH:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(data, jpeg)

    with pytest.MonkeyPatch.context() as patched:  # another test gets the same process
        patched.setattr(decoding, "_decode_plain", deadly)
        yield from propose_batch(rows, config, attempts, rules, truncated, tiling)


class Poisoned:
    """A Detector's stand-in. Dies whenever its batch holds `poison`, a URI."""

    def __init__(self, poison: str, attempts: Attempts) -> None:
        self._poison = poison
        self._attempts = attempts

    def __call__(self, candidates: pa.Table) -> pa.Table:
        return attempt(candidates, self._work, self._fail, stage="detect", attempts=self._attempts)

    def _work(self, candidates: pa.Table) -> pa.Table:
        if self._poison in candidates["image_uri"].to_pylist():
            os.kill(os.getpid(), signal.SIGKILL)
        return self._results(candidates, {})

    def _fail(self, candidates: pa.Table, failure: Failure) -> pa.Table:
        return self._results(candidates, {"status": failure.status, "error": failure.cause})

    def _results(self, candidates: pa.Table, change: dict[str, str]) -> pa.Table:
        rows = [row | change for row in candidates.to_pylist()]
        shared = [{name: row.get(name) for name in RESULT.names} for row in rows]
        return pa.Table.from_pylist(shared, schema=RESULT)
