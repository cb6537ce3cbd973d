"""A program: jobs/score_bucket.py with a stand-in for the Detector, which needs no GPU.

Ray counts the GPUs of a node, it does not look at them. Each row names the GPU that Ray gave its Detector, in
`error`: "['0']", or "[]" without a GPU.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import ray

import pipeline.score
from pipeline.config import ScoreConfig
from pipeline.runtime.cli import main
from pipeline.schema import RESULT


class StandIn:
    """It finds nothing in any image. Ray sends its code, because it lies in __main__."""

    def __init__(self, *_: Any, run_id: str, **__: Any) -> None:
        self._run_id = run_id

    def __call__(self, candidates: pa.Table) -> pa.Table:
        gpus = ray.get_runtime_context().get_accelerator_ids()["GPU"]
        found = {"run_id": self._run_id, "scored_at": datetime.now(UTC), "error": str(gpus)}
        found |= {"detections": [], "num_detections": 0}
        rows = [
            {name: row.get(name) for name in RESULT.names} | found for row in candidates.to_pylist()
        ]
        return pa.Table.from_pylist(rows, schema=RESULT)


if __name__ == "__main__":
    pipeline.score.Detector = StandIn  # type: ignore[misc, assignment]
    main(ScoreConfig, pipeline.score.run, "")
