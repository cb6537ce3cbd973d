"""Write a training to MLflow if --mlflow-uri is given: flags, every step, every validation.

Each --output has one MLflow run. A resumed training continues it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote

from pipeline.errors import UserError, one_line

EXPERIMENT = "fastrcnn-ray"
MOST_METRICS, MOST_PARAMS, LONGEST_PARAM = 1000, 100, 6000
"""Limits of one log-batch request of MLflow's REST API; the last is in characters."""
_PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "30", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}
"""Settings of MLflow's client, if the environment has none. Its defaults wait for a quarter of an hour."""
NOT_SENT = ("iteration", "val_ap")
"""Entries that are not sent as metrics: the step, and a table that is sent class by class."""


class Tracking:
    """The address of an MLflow server or store. Its text never shows the user, the password or the query.

    The secrets reach the process that sends numbers, in memory. They are in no file, log or error.
    """

    def __init__(self, uri: str) -> None:
        self._uri = os.path.expanduser(uri)
        scheme, separator, rest = self._uri.partition("://")
        if not separator:
            # A path, in which @ and ? mean nothing; or USER:PASSWORD@HOST, which lacks its scheme.
            scheme, rest = "", self._uri
            separator = "" if re.match(r"[^/@]+:[^@]*@", rest) else "path"
        if separator == "path":
            self._login, self._query, self.shown = "", "", self._uri
            return
        self._login, _, rest = rest.rpartition("@")
        rest, _, self._query = re.sub("[?#]", "?", rest).partition("?")
        self.shown = scheme + separator + rest
        """The address without what stands before the last @, and without the query."""

    def __repr__(self) -> str:
        return self.shown

    def connect(self) -> str:
        """Return the URI for MLflow's client.

        The client writes the URI into its errors. So for an HTTP address, it takes user and password from the
        environment.
        """
        if not self._login or not self.shown.startswith(("http://", "https://")):
            return self._uri
        user, _, password = self._login.partition(":")
        os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(user)
        os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(password)
        return self.shown + (f"?{self._query}" if self._query else "")

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Raise `MLflowError` for each error of MLflow, without the secrets of this address."""
        try:
            yield
        except Exception as error:  # MLflow, requests and SQLAlchemy have their own exceptions
            text = f"{type(error).__name__}: {one_line(error)}"
            password = self._login.partition(":")[2]
            for secret in filter(None, (self._login, password, self._query)):
                text = text.replace(secret, "***").replace(unquote(secret), "***")
            raise MLflowError(f"{self.shown}: {text}") from None


class MLflowError(Exception):
    """MLflow did not take something. The message is in one line and holds no secret."""


def check_installed(tracking: Tracking) -> None:
    """Raise UserError if MLflow is not installed."""
    if importlib.util.find_spec("mlflow") is None:
        raise UserError(
            f"--mlflow-uri {tracking}",
            "needs the package mlflow, which is not installed",
            "Install fastrcnn-ray[mlflow] on every node.",
        )


class MLflowRun:
    """The MLflow run of a training. Only rank 0 has one.

    Numbers are collected and sent with each checkpoint. The run is made or found at the first checkpoint, and
    numbers that the server did not take are sent again with the next one.
    """

    def __init__(self, tracking: Tracking, output: str, flags: Mapping[str, Any]) -> None:
        self._tracking, self._output, self._flags = tracking, output, flags
        self._pending: list[tuple[str, float, int, int]] = []
        self._client: Any = None
        self._run_id = ""
        self._lacks_params = False

    def _begin(self) -> None:
        """Find the run of this output, or make it."""
        for name, value in _PATIENCE.items():
            os.environ.setdefault(name, value)
        # Imported here: mlflow is an optional package and takes seconds to import.
        from mlflow import MlflowClient
        from mlflow.entities import Param

        client = MlflowClient(tracking_uri=self._tracking.connect())
        known = client.get_experiment_by_name(EXPERIMENT)
        experiment = known.experiment_id if known else client.create_experiment(EXPERIMENT)
        # MLflow's search syntax cannot escape a quote, so the tag holds a hash of the output.
        digest = hashlib.sha256(self._output.encode()).hexdigest()[:32]
        runs = client.search_runs([experiment], f"tags.output_sha256 = '{digest}'")
        if runs:
            self._run_id = runs[0].info.run_id
            client.update_run(self._run_id, status="RUNNING")
        else:
            tags = {"output": self._output, "output_sha256": digest}
            self._run_id = client.create_run(experiment, tags=tags).info.run_id
            self._lacks_params = True
        if self._lacks_params:  # MLflow refuses other values for a run that has them
            params = [Param(key, str(value)[:LONGEST_PARAM]) for key, value in self._flags.items()]
            for start in range(0, len(params), MOST_PARAMS):
                client.log_batch(self._run_id, params=params[start : start + MOST_PARAMS])
        self._lacks_params = False
        self._client = client

    def close(self, failed: bool) -> None:
        """Mark the run as finished or failed."""
        if self._client is not None:
            with self._tracking.errors():
                self._client.set_terminated(self._run_id, "FAILED" if failed else "FINISHED")

    def step(self, row: Mapping[str, float]) -> None:
        """Add one step: its row of the history."""
        self._collect("train", row, int(row["iteration"]))

    def add_validation(
        self, iteration: int, metrics: Mapping[str, Any], pictures: Mapping[str, bytes]
    ) -> None:
        """Add the metrics of a validation. Pictures stay in the output and are not sent."""
        self._collect("validation", metrics, iteration)
        per_class = {name: ap for name, ap in metrics["val_ap"].items() if ap is not None}
        self._collect("validation/ap", per_class, iteration)

    def save(self, iteration: int) -> None:
        """Send the numbers that were not sent yet."""
        with self._tracking.errors():
            if self._client is None:
                self._begin()
            from mlflow.entities import Metric

            while self._pending:
                part = [Metric(*number) for number in self._pending[:MOST_METRICS]]
                self._client.log_batch(self._run_id, metrics=part)
                del self._pending[:MOST_METRICS]

    def _collect(self, group: str, values: Mapping[str, float], iteration: int) -> None:
        now = int(1000 * time.time())
        self._pending += [
            (re.sub(r"[^\w.\- /]", "_", f"{group}/{name}"), float(value), now, iteration)
            for name, value in values.items()
            if name not in NOT_SENT
        ]
