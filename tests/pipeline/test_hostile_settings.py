"""Checkpoints, existing outputs and flags that are bad or made to be: one line and no worker."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from fastrcnn.checkpoint import CONFIG, WEIGHTS, save_checkpoint
from fastrcnn.config import FastRCNNConfig, ProposalConfig
from fastrcnn.model import FastRCNN
from pipeline import score, train
from pipeline.config import ScoreConfig, TrainConfig
from pipeline.draw_scenes import draw_split
from pipeline.record import plan
from pipeline.runtime import cluster
from pipeline.runtime.cli import main
from pipeline.schema import SCORED
from pipeline.scoring.preflight import prepare
from pipeline.storage.checkpoints import load


def rewrite_config(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    config = json.loads((folder / CONFIG).read_text())
    change(config)
    (folder / CONFIG).write_text(json.dumps(config))


def rewrite_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Other weights, whose hash is the config's: what only looking into them can find."""
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)
    sign(folder)


def sign(folder: Path) -> None:
    digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    rewrite_config(folder, lambda config: config.update(weights_sha256=digest))


def replace_weights(folder: Path, data: bytes) -> None:
    (folder / WEIGHTS).write_bytes(data)
    sign(folder)


class Exploit:
    """Unpickling it makes a file: proof that code ran."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self._path,))


def pickled(folder: Path) -> bytes:
    sink = io.BytesIO()
    torch.save({"model": Exploit(folder.parent / "code-ran")}, sink)
    return sink.getvalue()


def flip_bit(folder: Path) -> None:
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / WEIGHTS).write_bytes(bytes(data))


def overflow(tensors: dict[str, torch.Tensor]) -> None:
    tensors["head.cls_score.weight"].fill_(3e38)
    tensors["head.fc7.bias"].fill_(3e38)


def cut_weights(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-9])


def weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], object]:
    return lambda folder: rewrite_weights(folder, change)


def settings(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    return lambda folder: rewrite_config(folder, change)


def model(**changes: object) -> Callable[[Path], object]:
    return settings(lambda config: config["model"].update(changes))


def written(name: str, data: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(data)


def signed(data: bytes) -> Callable[[Path], object]:
    return lambda folder: replace_weights(folder, data)


def halve(tensors: dict[str, torch.Tensor]) -> None:
    tensors["head.fc6.bias"] = tensors["head.fc6.bias"].half()


CHECKPOINTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda f: (f / CONFIG).unlink(), "holds no config.json"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "model.safetensors is missing"),
    "no weights' hash": (settings(lambda c: c.pop("weights_sha256")), "weights_sha256"),
    "weights truncated": (cut_weights, "the file is truncated or modified"),
    "weights empty": (written(WEIGHTS, b""), "model.safetensors (0 bytes) does not match"),
    "a flipped bit": (flip_bit, "the file is truncated or modified"),
    "config empty": (written(CONFIG, b""), "not JSON"),
    "config is a web page": (written(CONFIG, b"<html>"), "not JSON"),
    "config is deep": (written(CONFIG, b"[" * 10**5), "not JSON"),
    "config of another program": (written(CONFIG, b'{"model_type": 1}'), "no format_version"),
    "config of a newer format": (
        settings(lambda c: c.update(format_version=9)),
        "format_version 9",
    ),
    "config is a pickle": (written(CONFIG, pickle.dumps({1: 2})), "not JSON"),
    "pickle for weights": (lambda f: replace_weights(f, pickled(f)), "cannot be read"),
    "web page for weights": (signed(b"<html>404</html>" * 9), "cannot be read"),
    "header of a terabyte": (signed((2**40).to_bytes(8, "little") + b"{}"), "cannot be read"),
    "NaN": (weights(lambda t: t["head.fc6.weight"].fill_(float("nan"))), "not finite"),
    "infinity": (weights(lambda t: t["head.fc6.bias"].fill_(float("inf"))), "not finite"),
    "finite weights that overflow": (
        weights(overflow),
        "scores that are not finite on a test image",
    ),
    "a tensor less": (weights(lambda t: t.pop("head.fc6.bias")), "'head.fc6.bias' is missing"),
    "a tensor more": (weights(lambda t: t.update(x=torch.zeros(1))), "'x' is not part of"),
    "half precision": (weights(halve), "torch.float16"),
    "another architecture": (model(backbone="squeezenet1_1"), "does not match config.json: tensor"),
    "an unknown architecture": (model(backbone="detr"), "expected one of caffenet"),
    "a layer of a terabyte": (model(fc_dim=10**9), "fc_dim=1000000000: expected an integer from 1"),
    "a layer of another size": (model(fc_dim=4096), "does not match config.json: tensor"),
    "a layer of no number": (model(fc_dim="64"), "fc_dim"),
    "a negative layer": (model(fc_dim=-64), "fc_dim=-64: expected an integer from 1 to"),
    "a threshold of NaN": (model(nms_threshold=float("nan")), "nms_threshold"),
    "a class less": (
        settings(lambda c: c.update(classes=["cat"])),
        "names 1 classes, but its model has 2",
    ),
    "a class twice": (settings(lambda c: c.update(classes=["cat", "cat"])), "'cat' twice"),
    "classes that are one word": (
        settings(lambda c: c.update(classes="ab")),
        "classes='ab': expected a list of names",
    ),
    "no classes": (settings(lambda c: c.pop("classes")), "classes"),
    "proposals of no number": (
        settings(lambda c: c["proposals"].update(max_boxes="a")),
        "max_boxes",
    ),
}


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(**_: bool) -> None:
        raise AssertionError("asked for the cluster before the mistake was found")

    monkeypatch.setattr(cluster, "connect", connect)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "a.png")
    return tmp_path / "images"


def refusal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], job: str, *flags: str
) -> str:
    """What the job says of these flags; it must be one line and exit code 2."""
    config, run = {"score": (ScoreConfig, score.run), "train": (TrainConfig, train.run)}[job]
    monkeypatch.setattr(sys, "argv", [job, *flags])
    with pytest.raises(SystemExit) as stop:
        main(config, run, "")  # type: ignore[arg-type]
    said = capsys.readouterr().err
    assert stop.value.code == 2, said
    assert "Traceback" not in said
    return said


@pytest.mark.parametrize("fault", CHECKPOINTS)
def test_a_checkpoint_is_proved_before_anything_starts(
    tiny_checkpoint: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fault: str,
) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint, folder)
    spoil, says = CHECKPOINTS[fault]
    spoil(folder)
    flags = "--images", str(images), "--checkpoint", str(folder), "--output", str(tmp_path / "out")
    said = refusal(monkeypatch, capsys, "score", *flags)
    assert says in said
    assert str(folder) in said
    assert said.count("\n") == 1
    assert not (tmp_path / "code-ran").exists()
    assert not (tmp_path / "out").exists()


def test_only_the_checkpoints_two_files_are_read(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """A URI that names too much, such as a whole bucket, is not copied to every worker."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint, folder)
    os.mkfifo(folder / "pipe")  # reading it would never end
    assert load(str(folder)).classes == ("cat", "dog")


@pytest.mark.parametrize("backbone", ["tiny", "caffenet", "resnet50_fpn", "mobilenet_v2"])
def test_a_checkpoint_that_training_writes_is_taken(
    images: Path, tmp_path: Path, backbone: str
) -> None:
    config = FastRCNNConfig.modern(2, backbone=backbone, fc_dim=16)
    torch.manual_seed(0)
    save_checkpoint(
        tmp_path / "c",
        FastRCNN(config),
        classes=("cat", "dog"),
        proposals=ProposalConfig(name="grid"),
        training={},
    )
    job = prepare(
        ScoreConfig(images=str(images), checkpoint=str(tmp_path / "c"), output=str(tmp_path / "o"))
    )
    assert job.checkpoint.classes == ("cat", "dog")


def put(path: Path, data: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())


def parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


LACKING = parquet(pa.table({"image_uri": ["a"]}))
PLAN, SHARD = "plans/000001.json", "scored/{run}/00000000.parquet"
OUTPUTS: dict[str, tuple[str, bytes, str]] = {
    "empty plan": (PLAN, b"", "not a generation of a plan"),
    "garbage plan": (PLAN, b"PAR1" * 100, "not a generation of a plan"),
    "plan with a field less": (PLAN, b'{"format_version": 1}', "not a generation of a plan"),
    "a plan's second generation alone": ("plans/000002.json", b"", "expected 000001.json to"),
    "foreign object among the plans": ("plans/notes.txt", b"hello", "expected 000001.json to"),
    "foreign object among the shards": (
        "scored/{run}/notes.txt",
        b"hello",
        "is not a shard of a scoring run",
    ),
    "empty shard": (SHARD, b"", "is damaged"),
    "garbage shard": (SHARD, b"PAR1" * 100, "is damaged"),
    "shard with a column less": (SHARD, LACKING, "is damaged"),
    "shard of no rows": (SHARD, parquet(SCORED.empty_table()), "not the 1 planned images"),
}


@pytest.mark.parametrize("fault", OUTPUTS)
def test_what_lies_in_the_output_is_ours_or_refused(
    tiny_checkpoint: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fault: str,
) -> None:
    """Joining a cluster is allowed here, as its size is asked before the plan is made; a worker is not."""
    config = ScoreConfig(
        images=str(images), checkpoint=str(tiny_checkpoint), output=str(tmp_path / "out")
    )
    job = prepare(config)
    path, data, says = OUTPUTS[fault]
    if "scored" in path:
        plan.extend(config.output, job.selection.listed, shard_size=1000)
    put(tmp_path / "out" / path.format(run=job.run_id), data)
    monkeypatch.setattr(cluster, "connect", lambda **_: False)
    monkeypatch.setattr(cluster, "resources", lambda: {"CPU": 2.0})
    monkeypatch.setattr(cluster, "nodes", lambda: [{"CPU": 2.0}])
    names = ("images", "checkpoint", "output")
    flags = [part for name in names for part in (f"--{name}", str(getattr(config, name)))]
    said = refusal(monkeypatch, capsys, "score", *flags)
    assert says in said
    assert said.splitlines()[-1].startswith("error: ")


TRAIN_OUTPUTS = {
    "run.json garbage": ("run.json", "{", "is not valid JSON"),
    "run.json another's": ("run.json", "[]", "not a JSON object"),
    "run.json of other flags": ("run.json", "{}", "holds a run with other flags"),
}


@pytest.mark.parametrize("fault", TRAIN_OUTPUTS)
def test_a_training_output_is_ours_or_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fault: str,
) -> None:
    draw_split(tmp_path / "data", "train", range(2), seed=0)
    name, content, says = TRAIN_OUTPUTS[fault]
    put(tmp_path / "out" / name, content)
    flags = "--data", str(tmp_path / "data"), "--output", str(tmp_path / "out")
    more = "--backbone", "tiny", "--weights", "none"
    assert says in refusal(monkeypatch, capsys, "train", *flags, *more)


FLAGS = {
    "--batch-size -1": "--batch-size -1",
    "--batch-size many": "--batch-size: 'many' was given, expected an integer",
    "--batch-size 1.5": "--batch-size: '1.5' was given, expected an integer",
    "--bach-size 4": "--bach-size: no such flag. Did you mean --batch-size?",
    "--score-threshold nan": "expected a score from 0 to 1",
    "--score-threshold 1e9": "expected a score from 0 to 1",
    "--max-failures nan": "share of the images",
    "--max-pixels 0": "must be above 0",
    "--max-bytes -5": "must be above 0",
    "--gpus-per-worker nan": "expected 0 or more",
    "--shard-size 0": "must be above 0",
    "--limit 0": "must be above 0",
    "--price-per-cpu-hour -1": "expected 0 or more",
    "--proposals ../../x": "../../x",
    "--proposals selective": "neither a proposer nor",
}


@pytest.mark.parametrize("flags", FLAGS)
def test_a_flag_that_means_nothing_is_refused(
    tiny_checkpoint: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: str,
) -> None:
    base = "--images", str(images), "--checkpoint", str(tiny_checkpoint), "--output"
    said = refusal(monkeypatch, capsys, "score", *base, str(tmp_path / "out"), *flags.split())
    assert FLAGS[flags] in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flag", "value", "says"),
    [
        ("--images", "", "--images"),
        ("--output", "", "--output"),
        ("--output", "s3://", "expected a path or a URI"),
        ("--output", "s3:/bucket", "expected a path or a URI"),
        ("--checkpoint", "gs:", "expected a path or a URI"),
        ("--output", "images/out", "lies inside"),
        ("--images", "nowhere", "nowhere"),
        ("--images", "gopher://x/y", "gopher"),
        ("--checkpoint", "images", "holds no config.json"),
    ],
)
def test_a_uri_that_names_nothing_is_refused(
    tiny_checkpoint: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flag: str,
    value: str,
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    given = {"--images": "images", "--checkpoint": str(tiny_checkpoint), "--output": "out"}
    flags = [part for pair in (given | {flag: value}).items() for part in pair]
    assert says in refusal(monkeypatch, capsys, "score", *flags)
