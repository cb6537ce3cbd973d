"""Tests of MLflow: runs are read back from a local store; without the package, the flag is refused."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
from pathlib import Path

import pytest

from pipeline.draw_scenes import draw_split
from pipeline.errors import UserError
from pipeline.train import FREE_FLAGS
from pipeline.training.data import read_data
from pipeline.training.mlflow_run import (
    EXPERIMENT,
    MLflowError,
    MLflowRun,
    Tracking,
    check_installed,
)
from pipeline.training.plan import TrainPlan, provenance
from tests.pipeline.training_runs import config

installed = importlib.util.find_spec("mlflow") is not None


@pytest.mark.skipif(installed, reason="the extra mlflow is installed")
def test_without_the_extra_the_flag_is_refused() -> None:
    with pytest.raises(UserError, match=r"fastrcnn-ray\[mlflow\]") as error:
        check_installed(Tracking("http://user:secret@tracking:5000"))
    assert "secret" not in str(error.value)
    assert "http://tracking:5000" in str(error.value)


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://tracking:5000", "http://tracking:5000"),
        ("https://user:p%40ss@tracking/path", "https://tracking/path"),
        ("https://user:p/a@b#c@tracking:80", "https://tracking:80"),
        ("https://token@tracking", "https://tracking"),
        ("https://tracking/api?token=secret#x", "https://tracking/api"),
        ("postgresql+psycopg2://user:p[ss@db/mlflow?password=x", "postgresql+psycopg2://db/mlflow"),
        ("user:secret@tracking:5000", "tracking:5000"),
        ("sqlite:////data/mlflow.db", "sqlite:////data/mlflow.db"),
        ("/data/a@b?/mlruns", "/data/a@b?/mlruns"),
        ("databricks", "databricks"),
    ],
)
def test_the_text_of_an_address_holds_no_secret(uri: str, shown: str) -> None:
    tracking = Tracking(uri)
    assert (tracking.shown, str(tracking), repr([tracking])) == (shown, shown, f"[{shown}]")
    assert pickle.loads(pickle.dumps(tracking)).connect()


def test_a_client_takes_the_password_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "before")
    assert Tracking("http://h/").connect() == "http://h/"
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == "before"
    assert Tracking("https://me:p%40%2Fs@h:5/x?y=1").connect() == "https://h:5/x?y=1"
    assert os.environ["MLFLOW_TRACKING_USERNAME"] == "me"
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == "p@/s"
    # A database has no such variables, so its client gets the whole address.
    assert Tracking("postgresql://me:p@db/x").connect() == "postgresql://me:p@db/x"


def test_an_error_of_the_library_loses_the_secrets() -> None:
    tracking = Tracking("postgresql://me:p%40ss@db/x?key=k1")
    with pytest.raises(MLflowError) as caught, tracking.errors():
        raise OSError("cannot reach postgresql://me:p%40ss@db/x?key=k1\n(password p@ss)")
    text = str(caught.value)
    assert text.startswith("postgresql://db/x: OSError: cannot reach")
    assert [part for part in ("p%40ss", "p@ss", "k1", "\n") if part in text] == []
    assert caught.value.__suppress_context__, "a traceback would show the first text"


def test_neither_the_run_nor_the_checkpoint_keeps_the_password(scenes: Path) -> None:
    flags = config(str(scenes), "unused", mlflow_uri="http://me:secret@tracking:5000")
    training, _ = read_data(flags)
    plan = TrainPlan.of(flags, training.classes)
    described = json.dumps(provenance(flags, plan, 1))
    assert "secret" not in described
    assert json.loads(described)["flags"]["mlflow_uri"] == "http://tracking:5000"
    assert "mlflow_uri" in FREE_FLAGS, "run.json has no free flags"


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    draw_split(tmp_path, "train", range(2), seed=0, size=(60, 70))
    return tmp_path


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
    run = MLflowRun(Tracking(uri), output, flags)
    run.step({"iteration": 1, "loss": 0.5})
    run.add_validation(1, {"iteration": 1, "val_map": 0.25, "val_ap": {"a(b": 0.5, "c": None}}, {})
    run.save(1)
    run.step({"iteration": 2, "loss": 9.0})  # not saved: the resumed run sends this step again
    run.close(failed=False)
    run = MLflowRun(Tracking(uri), output, flags | {"num_workers": 2})
    run.step({"iteration": 2, "loss": 0.25})
    run.save(2)
    run.close(failed=True)
    other = MLflowRun(Tracking(uri), "another output", flags)
    other.save(1)
    other.close(failed=False)
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


@pytest.mark.skipif(not installed, reason="the extra mlflow is not installed")
@pytest.mark.filterwarnings("ignore")
def test_numbers_that_a_server_did_not_take_are_sent_with_the_next_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "store").as_uri()
    run = MLflowRun(Tracking(uri), "output", {"seed": 3})
    run.step({"iteration": 1, "loss": 0.5})
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", lambda *_, **__: 1 / 0)
        with pytest.raises(MLflowError, match="ZeroDivisionError"):
            run.save(1)
    run.step({"iteration": 2, "loss": 0.25})
    run.save(2)
    client = MlflowClient(tracking_uri=uri)
    (logged,) = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])
    assert logged.data.params == {"seed": "3"}
    losses = client.get_metric_history(logged.info.run_id, "train/loss")
    assert [(metric.step, metric.value) for metric in losses] == [(1, 0.5), (2, 0.25)]
