"""Training end to end on drawn scenes: the same run whatever dies on the way, and what is refused first."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
import torchvision
from safetensors.torch import load_file

from fastrcnn.checkpoint import load_checkpoint
from fastrcnn.model import FastRCNN
from pipeline import storage, train
from pipeline.config import TrainConfig
from pipeline.detector import Detector
from pipeline.draw_scenes import draw_split
from pipeline.errors import JobError, UserError
from pipeline.training.lease import TrainingLease
from tests.fault_proxy import FaultyProxy
from tests.pipeline.training_runs import (
    ITERATIONS,
    begin,
    config,
    curves,
    driver,
    latest_checkpoint,
    second_node,
    steps_without_ray,
    train_workers,
    wait_for_checkpoint,
)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    draw_split(folder, "train", range(9), seed=0, size=(180, 220))
    draw_split(folder, "val", range(9, 12), seed=0, size=(180, 220))
    return folder


@pytest.fixture(scope="module")
def undisturbed(scenes: Path) -> tuple[list[dict[str, float]], FastRCNN]:
    return steps_without_ray(config(str(scenes), "unused"))


@pytest.fixture(scope="module")
def killed(scenes: Path, ray_cluster: None, s3_client: Any) -> str:
    """A training by two workers on two nodes, from and to a bucket; a worker is killed, then the driver. The
    same command goes on, with one worker, for the second node is gone. Its output."""
    s3_client.create_bucket(Bucket="train-runs")
    storage.upload_folder(scenes, "s3://train-runs/shapes")
    output = "s3://train-runs/output"
    flags = config("s3://train-runs/shapes", output, num_workers=2)
    address = ray.get_runtime_context().gcs_address
    with driver(flags) as process, second_node(address):
        begin(process)
        wait_for_checkpoint(output, process, after="")
        workers = train_workers(address)
        assert len(workers) == 2
        os.kill(workers[-1], signal.SIGKILL)
        while len(set(train_workers(address)) - set(workers)) < 2:
            assert process.poll() is None
            time.sleep(0.1)
        before = latest_checkpoint(output)  # maybe one that the first two had on its way
        wait_for_checkpoint(output, process, after=before)
        process.kill()
        process.wait()
        assert not storage.exists(f"{output}/result.json")
    train.run(replace(flags, num_workers=1))
    return output


@pytest.mark.long
def test_killed_and_started_again_a_run_makes_the_undisturbed_ones_losses(
    killed: str, undisturbed: tuple[list[dict[str, float]], FastRCNN]
) -> None:
    rows, _ = undisturbed
    steps = curves(killed)["steps"]
    assert [row["iteration"] for row in steps] == list(range(1, ITERATIONS + 1))
    for row, expected in zip(steps, rows, strict=True):
        assert {key: row[key] for key in expected} == pytest.approx(expected, rel=1e-6)
    assert len({row["loss"] for row in steps}) == ITERATIONS
    assert all(row["seconds"] > row["waited"] >= 0 for row in steps)


@pytest.mark.long
def test_killed_and_started_again_a_run_ends_with_the_undisturbed_ones_weights(
    killed: str, undisturbed: tuple[list[dict[str, float]], FastRCNN], tmp_path: Path
) -> None:
    latest = sorted(folders(f"{killed}/train"))[-1]
    storage.download_folder(f"{killed}/train/{latest}", tmp_path)
    found = load_file(tmp_path / "model.safetensors")
    for name, value in undisturbed[1].state_dict().items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-7)


def folders(uri: str) -> set[str]:
    inside = (item.uri.removeprefix(f"{uri}/") for item in storage.list_objects(uri))
    return {path.split("/")[0] for path in inside if path.startswith("checkpoint_") and "/" in path}


@pytest.mark.long
def test_it_validates_as_often_as_an_undisturbed_one(killed: str) -> None:
    validations = curves(killed)["validations"]
    assert [row["iteration"] for row in validations] == list(range(2, ITERATIONS + 1, 2))


@pytest.mark.long
def test_the_best_checkpoints_and_the_latest_are_kept(killed: str) -> None:
    snapshot = json.loads(storage.read_bytes(f"{killed}/train/checkpoint_manager_snapshot.json"))
    kept = [result["metrics"] for result in snapshot["checkpoint_results"]]
    assert ITERATIONS in {metrics["iteration"] for metrics in kept}
    best = max(row["val_map"] for row in curves(killed)["validations"])
    assert max(metrics["val_map"] for metrics in kept) == best
    assert len(kept) <= TrainConfig(data="data", output="output").keep_best + 1


@pytest.mark.long
def test_the_checkpoint_says_what_it_was_trained_on(killed: str, tmp_path: Path) -> None:
    storage.download_folder(storage.join(killed, "checkpoint"), tmp_path)
    checkpoint = load_checkpoint(tmp_path)
    training = checkpoint.config["training"]
    assert training["num_images"] == 9
    assert training["flags"]["seed"] == 3
    assert set(training["versions"]) == {"python", "ray", "torch", "torchvision"}
    assert checkpoint.proposals.name == "grid"
    assert checkpoint.proposals.max_boxes == 200
    assert storage.read_bytes(storage.join(killed, "curves.png")).startswith(b"\x89PNG")


@pytest.mark.long
def test_a_finished_run_is_not_run_again(killed: str) -> None:
    again = train.run(config("s3://train-runs/shapes", killed, num_workers=1))
    assert again is not None
    assert again.num_iterations == ITERATIONS
    assert again.checkpoint == storage.join(killed, "checkpoint")


@pytest.mark.long
def test_another_runs_output_is_refused_with_what_differs(killed: str) -> None:
    with pytest.raises(UserError, match="seed was 3, is 4"):
        train.run(config("s3://train-runs/shapes", killed, seed=4))


@pytest.mark.usefixtures("ray_cluster")
def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_images(
    scenes: Path, tmp_path: Path
) -> None:
    flags = ("box_weight=1e30", "delta_std=1e-30,1e-30,1e-30,1e-30")  # together above float32
    with pytest.raises(JobError, match=r"loss at step \d .*not finite.*JPEGImages/00000\d.jpg"):
        train.run(config(str(scenes), str(tmp_path / "run"), set=flags))


def refused(scenes: Path, tmp_path: Path, **changes: Any) -> str:
    with pytest.raises(UserError) as caught:
        train.run(config(str(scenes), str(tmp_path / "out"), **changes))
    assert not (tmp_path / "out" / "train").exists()
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"split": "holdout"}, "train"),  # the splits there are are listed
        ({"classes": ("zebra", "yak")}, "zebra"),
        ({"backbone": "vgg17"}, "--backbone vgg17: expected one of caffenet"),
        ({"proposals": "sliding_window"}, "grid, opencv"),
        ({"proposals": "selective_search", "proposal_mode": "exactly"}, "fast, small, exact"),
        ({"proposal_mode": "small"}, "grid has no such mode"),
        ({"weights": "imagenet"}, "no ImageNet weights"),
        ({"weights": "/nowhere/weights.pth"}, "/nowhere/weights.pth"),
        ({"num_workers": 3, "batch_size": None}, "does not divide"),
    ],
)
def test_mistakes_are_found_before_any_worker_starts(
    scenes: Path, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    assert reason in refused(scenes, tmp_path, **changes)


def test_weights_that_would_run_code_or_are_of_another_network_are_refused(
    scenes: Path, tmp_path: Path
) -> None:
    torch.save({"model": torch.nn.Linear(2, 2)}, tmp_path / "pickle.pth")
    assert "without running code" in refused(scenes, tmp_path, weights=str(tmp_path / "pickle.pth"))
    torch.save({"features.0.weight": torch.zeros(3, 3)}, tmp_path / "other.pth")
    assert "not weights of tiny" in refused(scenes, tmp_path, weights=str(tmp_path / "other.pth"))


def test_a_dry_run_writes_nothing(scenes: Path, tmp_path: Path) -> None:
    assert train.run(config(str(scenes), str(tmp_path / "out"), dry_run=True)) is None
    assert not (tmp_path / "out").exists()


@pytest.mark.long
@pytest.mark.usefixtures("ray_cluster")
def test_an_outage_while_a_checkpoint_is_uploaded_is_waited_out(
    scenes: Path,
    bucket: str,
    worker_proxy: FaultyProxy,
    monkeypatch: pytest.MonkeyPatch,
    undisturbed: tuple[list[dict[str, float]], FastRCNN],
) -> None:
    """For half a minute the store gives the workers nothing, from the first byte of a checkpoint on."""
    began: list[float] = []
    broken: list[str] = []

    def next_fault(method: str, path: str) -> str:
        if not began and method == "PUT" and "/train/checkpoint_" in path:
            began.append(time.monotonic())
        if not began or time.monotonic() > began[0] + 30:
            return "pass"
        broken.append(method)
        return "503"

    monkeypatch.setattr(worker_proxy, "next_fault", next_fault)
    assert train.run(config(str(scenes), bucket)) is not None
    assert broken.count("PUT") > 3
    for row, expected in zip(curves(bucket)["steps"], undisturbed[0], strict=True):
        assert {key: row[key] for key in expected} == pytest.approx(expected, rel=1e-6)
    board = storage.list_objects(f"{bucket}/tensorboard")
    assert len(board) >= ITERATIONS // 2, "the events of the outage were lost"


@pytest.mark.usefixtures("ray_cluster")
def test_a_second_training_on_one_output_is_refused_before_its_work(
    scenes: Path, tmp_path: Path
) -> None:
    flags = config(str(scenes), str(tmp_path / "run"), mlflow_uri=None)
    with TrainingLease(flags.output, renew_s=0.5):
        with pytest.raises(JobError, match="trains into .*run and has renewed its lease"):
            train.run(flags)
    assert not (tmp_path / "run" / "proposals").exists()


def test_a_read_only_output_is_refused_also_in_a_dry_run(scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for dry_run in (False, True):
        with pytest.raises(UserError, match="file is not a folder"):
            train.run(config(str(scenes), str(tmp_path / "file" / "out"), dry_run=dry_run))


@pytest.mark.long
@pytest.mark.usefixtures("ray_cluster")
def test_two_workers_train_an_rpn_as_one_would_and_validate_by_it(
    scenes: Path, tmp_path: Path
) -> None:
    small = {"proposals": "rpn", "max_proposals": 40, "iterations": 3, "validate_every": 3}
    flags = config(str(scenes), str(tmp_path / "run"), **small)
    result = train.run(replace(flags, num_workers=2))
    assert result is not None
    assert result.val_map is not None
    steps = curves(str(tmp_path / "run"))["steps"]
    rows, model = steps_without_ray(flags)
    for row, expected in zip(steps, rows, strict=True):
        assert {key: row[key] for key in expected} == pytest.approx(expected, rel=1e-4)
    assert {"loss_objectness", "loss_rpn_box"} < set(steps[0])
    checkpoint = load_checkpoint(tmp_path / "run" / "checkpoint")
    assert checkpoint.proposals.name == "rpn"
    assert checkpoint.model.config.calibration is not None
    assert replace(checkpoint.model.config, calibration=None) == model.config
    for name, value in model.state_dict().items():
        torch.testing.assert_close(checkpoint.model.state_dict()[name], value, rtol=1e-4, atol=1e-6)
    assert not (tmp_path / "run" / "proposals").exists()


@pytest.mark.long
@pytest.mark.usefixtures("ray_cluster")
def test_two_workers_with_every_part_of_a_recipe_train_as_one_would(
    scenes: Path, tmp_path: Path
) -> None:
    parts = ("optimizer=adamw", "layer_decay=0.8", "ema_decay=0.9", "repeat_threshold=0.9")
    setting = ("images_per_pass=2", "crop_jitter=0.7,1.5", *parts)
    small = {"iterations": 3, "validate_every": 3, "set": setting}
    flags = config(str(scenes), str(tmp_path / "run"), **small)
    assert train.run(replace(flags, num_workers=2)) is not None
    rows, model = steps_without_ray(flags)
    for row, expected in zip(curves(str(tmp_path / "run"))["steps"], rows, strict=True):
        assert {key: row[key] for key in expected} == pytest.approx(expected, rel=1e-4)
    checkpoint = load_checkpoint(tmp_path / "run" / "checkpoint")
    for name, value in model.state_dict().items():  # the averaged weights
        torch.testing.assert_close(checkpoint.model.state_dict()[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.long
@pytest.mark.usefixtures("ray_cluster")
def test_windows_are_the_same_for_two_workers_and_after_a_kill(
    scenes: Path, tmp_path: Path
) -> None:
    flags = config(
        str(scenes), str(tmp_path / "run"), proposals="rpn", tile=96, whole_share=0.3, iterations=8
    )
    with driver(replace(flags, num_workers=2)) as process:
        begin(process)
        wait_for_checkpoint(flags.output, process, after="")
        process.kill()
        process.wait()
    assert not storage.exists(f"{flags.output}/result.json")
    assert train.run(replace(flags, num_workers=1)) is not None
    rows, _ = steps_without_ray(flags)
    for row, expected in zip(curves(flags.output)["steps"], rows, strict=True):
        assert {key: row[key] for key in expected} == pytest.approx(expected, rel=1e-4)
    assert load_checkpoint(tmp_path / "run" / "checkpoint").model.config.tile == 96


@pytest.mark.long
@pytest.mark.usefixtures("ray_cluster")
def test_a_training_starts_from_a_detector_of_torchvision_and_resumes(
    scenes: Path, tmp_path: Path
) -> None:
    build = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_fpn
    state_dict = build(weights=None, weights_backbone=None, num_classes=4).state_dict()
    torch.save(state_dict, tmp_path / "detector.pth")
    output = tmp_path / "out"
    weights = str(tmp_path / "detector.pth")
    few: dict[str, Any] = {"scale": 64, "iterations": 2, "validate_every": 2}
    flags = TrainConfig(data=str(scenes), output=str(output), weights=weights, **few)
    result = train.run(flags)
    assert result is not None
    checkpoint = load_checkpoint(output / "checkpoint")
    model = checkpoint.model.config
    assert (model.backbone, model.fc_dim) == ("mobilenet_v3_large_stride32", 1024)
    assert model.rpn is not None
    assert model.rpn.extra_level
    assert checkpoint.proposals.name == "rpn"
    (output / "result.json").unlink()  # as if the driver was killed before it wrote this file
    assert train.run(flags) == result
    picture = next((scenes / "JPEGImages").iterdir())
    assert set(Detector(str(output))(str(picture)).labels) <= set(checkpoint.classes)


@pytest.mark.usefixtures("ray_cluster")
def test_patience_ends_a_run_once_and_for_all(scenes: Path, tmp_path: Path) -> None:
    """At such a rate no weight changes, so the second validation is no better than the first."""
    output = tmp_path / "out"
    small = {"learning_rate": 1e-12, "patience": 1, "set": ("images_per_pass=2", "warmup=0")}
    flags = config(str(scenes), str(output), **small)
    result = train.run(flags)
    assert result is not None
    assert result.num_iterations == 4
    (output / "result.json").unlink()  # as if the driver was killed before it wrote this file
    before = curves(str(output))
    assert train.run(flags) == result
    assert curves(str(output)) == before
    with pytest.raises(UserError, match=r"solver.patience was 1, is not given"):
        train.run(replace(flags, patience=None))


def test_patience_without_validation_is_refused(scenes: Path, tmp_path: Path) -> None:
    data = tmp_path / "shapes"
    storage.upload_folder(scenes, str(data))
    (data / "ImageSets" / "Main" / "val.txt").unlink()
    flags = config(str(data), str(tmp_path / "out"), patience=2, dry_run=True)
    with pytest.raises(UserError, match="--patience 2: no image with a labelled object"):
        train.run(flags)


def test_a_validation_without_an_object_is_named_and_has_no_best_checkpoint(
    scenes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = tmp_path / "shapes"
    storage.upload_folder(scenes, str(data))
    for name in (data / "ImageSets" / "Main" / "val.txt").read_text().split():
        (data / "Annotations" / f"{name}.xml").write_text(
            f"<annotation><filename>{name}.jpg</filename></annotation>"
        )
    flags = config(str(data), str(tmp_path / "out"), dry_run=True)
    train.run(flags)
    assert "show no labelled object: there is no mAP" in caplog.text
    for more in ({"patience": 2}, {"set": ("best_by=voc07",)}):
        with pytest.raises(UserError, match="no image with a labelled object is validated"):
            train.run(replace(flags, **more))


@pytest.mark.usefixtures("ray_cluster")
def test_unreadable_images_are_tolerated_up_to_a_share(scenes: Path, tmp_path: Path) -> None:
    data = tmp_path / "shapes"
    storage.upload_folder(scenes, str(data))
    first = (data / "ImageSets" / "Main" / "train.txt").read_text().split()[0]
    next((data / "JPEGImages").glob(f"{first}.*")).write_bytes(b"not an image")
    with pytest.raises(JobError, match="1 of 12 images cannot be used"):
        train.run(config(str(data), str(tmp_path / "out")))
