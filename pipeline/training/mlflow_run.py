"""Write a training to MLflow if --mlflow-uri is given: flags, every step, every validation.

Each --output has one MLflow run. A resumed training continues it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import time
from collections.abc import Mapping
from typing import Any, Self

from pipeline.errors import UserError

EXPERIMENT = "fastrcnn-ray"
MOST_METRICS, MOST_PARAMS, LONGEST_PARAM = 1000, 100, 6000
"""Limits of one log-batch request of MLflow's REST API; the last is in characters."""
NOT_SHOWN = ("iteration", "val_ap")
"""Entries that are not sent as metrics: the step, and a table that is sent class by class."""


def check_installed(uri: str) -> None:
    """Raise UserError if MLflow is not installed."""
    if importlib.util.find_spec("mlflow") is None:
        raise UserError(
            f"--mlflow-uri {uri}",
            "needs the package mlflow, which is not installed",
            "Install fastrcnn-ray[mlflow] on every node.",
        )


class MLflowRun:
    """The MLflow run of a training. Only rank 0 has one.

    Numbers are collected and sent with each checkpoint, so that no step waits for the server.
    """

    def __init__(self, uri: str, output: str, flags: Mapping[str, Any]) -> None:
        # Imported here: mlflow is an optional package and takes seconds to import.
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._metric = Metric
        self._pending: list[Any] = []
        self._client = MlflowClient(tracking_uri=uri)
        known = self._client.get_experiment_by_name(EXPERIMENT)
        experiment = known.experiment_id if known else self._client.create_experiment(EXPERIMENT)
        # MLflow's search syntax cannot escape a quote, so the tag holds a hash of the output.
        digest = hashlib.sha256(output.encode()).hexdigest()[:32]
        runs = self._client.search_runs([experiment], f"tags.output_sha256 = '{digest}'")
        if runs:
            self._run_id = runs[0].info.run_id
            self._client.update_run(self._run_id, status="RUNNING")
            return
        tags = {"output": output, "output_sha256": digest}
        self._run_id = self._client.create_run(experiment, tags=tags).info.run_id
        params = [Param(name, str(value)[:LONGEST_PARAM]) for name, value in flags.items()]
        for start in range(0, len(params), MOST_PARAMS):
            self._client.log_batch(self._run_id, params=params[start : start + MOST_PARAMS])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._client.set_terminated(self._run_id, "FAILED" if kind else "FINISHED")

    def step(self, row: Mapping[str, float]) -> None:
        """Add one step: its row of the history."""
        self._take("train", row, int(row["iteration"]))

    def validated(
        self, iteration: int, metrics: Mapping[str, Any], pictures: Mapping[str, bytes]
    ) -> None:
        """Add the metrics of a validation. Pictures stay in the output and are not sent."""
        self._take("validation", metrics, iteration)
        per_class = {name: ap for name, ap in metrics["val_ap"].items() if ap is not None}
        self._take("validation/ap", per_class, iteration)

    def save(self, iteration: int) -> None:
        """Send the numbers collected since the last call."""
        for start in range(0, len(self._pending), MOST_METRICS):
            part = self._pending[start : start + MOST_METRICS]
            self._client.log_batch(self._run_id, metrics=part)
        self._pending = []

    def _take(self, group: str, values: Mapping[str, float], iteration: int) -> None:
        now = int(1000 * time.time())
        self._pending += [
            self._metric(
                re.sub(r"[^\w.\- /]", "_", f"{group}/{name}"), float(value), now, iteration
            )
            for name, value in values.items()
            if name not in NOT_SHOWN
        ]
