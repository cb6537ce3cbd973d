"""Tests of MLflow: runs are read back from a local store; without the package, the flag is refused."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.training.mlflow_run import EXPERIMENT, MLflowRun, check_installed

installed = importlib.util.find_spec("mlflow") is not None


@pytest.mark.skipif(installed, reason="the extra mlflow is installed")
def test_without_the_extra_the_flag_is_refused() -> None:
    with pytest.raises(UserError, match=r"fastrcnn-ray\[mlflow\]"):
        check_installed("http://tracking:5000")


def fail_at_the_second_step(run: MLflowRun) -> None:
    run.step({"iteration": 2, "loss": 0.25})
    run.save(2)
    raise KeyError


@pytest.mark.skipif(not installed, reason="the extra mlflow is not installed")
@pytest.mark.filterwarnings("ignore")  # from MLflow's dependencies
def test_a_resumed_training_continues_its_mlflow_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # the slim package has no other store
    uri = (tmp_path / "store").as_uri()
    flags = {"seed": 3, "backbone": "tiny", "set": ("momentum=0.8",)}
    output = 's3://bucket/o\'s "model"'
    with MLflowRun(uri, output, flags) as run:
        run.step({"iteration": 1, "loss": 0.5})
        run.validated(1, {"iteration": 1, "val_map": 0.25, "val_ap": {"a(b": 0.5, "c": None}}, {})
        run.save(1)
        run.step({"iteration": 2, "loss": 9.0})  # not saved: the resumed run sends this step again
    run = MLflowRun(uri, output, flags)
    with pytest.raises(KeyError), run:
        fail_at_the_second_step(run)
    with MLflowRun(uri, "another output", flags):
        pass
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    _, logged = sorted(
        client.search_runs([experiment.experiment_id]), key=lambda r: len(r.data.metrics)
    )
    assert logged.data.params == {"seed": "3", "backbone": "tiny", "set": "('momentum=0.8',)"}
    assert logged.data.tags["output"] == output
    assert logged.info.status == "FAILED"
    losses = client.get_metric_history(logged.info.run_id, "train/loss")
    assert [(metric.step, metric.value) for metric in losses] == [(1, 0.5), (2, 0.25)]
    assert logged.data.metrics["validation/val_map"] == 0.25
    assert logged.data.metrics["validation/ap/a_b"] == 0.5
