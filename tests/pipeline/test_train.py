"""Training end to end on drawn scenes: the same run with any number of workers, and what is refused first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fastrcnn.checkpoint import load_checkpoint
from pipeline import storage, train
from pipeline.config import TrainConfig
from pipeline.errors import JobError, UserError
from pipeline.scene_dataset import draw_split


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    # One size: what a batch is padded to hangs on who shares it, and group norms see the padding.
    draw_split(folder, "train", range(9), seed=0, size=(180, 220))
    draw_split(folder, "val", range(9, 12), seed=0, size=(180, 220))
    return folder


def config(data: str, output: str, **changes: Any) -> TrainConfig:
    small: dict[str, Any] = {
        "backbone": "tiny",
        "weights": "none",
        "proposals": "grid",
        "max_proposals": 200,
        "scale": 96,
        "fc_dim": 32,
        "rois_per_image": 32,
        "batch_size": 4,
        "iterations": 6,
        "validate_every": 3,
    }
    return TrainConfig(data=data, output=output, **(small | changes))


@pytest.fixture(scope="module")
def runs(
    scenes: Path, tmp_path_factory: pytest.TempPathFactory, ray_cluster: None, s3_client: Any
) -> dict[int, str]:
    """The same training by one worker and by two; the second from and to a bucket."""
    s3_client.create_bucket(Bucket="train-runs")
    storage.upload_folder(scenes, "s3://train-runs/shapes")
    outputs = {1: str(tmp_path_factory.mktemp("run")), 2: "s3://train-runs/output"}
    train.run(config(str(scenes), outputs[1], num_workers=1))
    train.run(config("s3://train-runs/shapes", outputs[2], num_workers=2))
    return outputs


def curves(output: str) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(storage.read_bytes(storage.join(output, "metrics.json")))
    return parsed


def test_two_workers_make_one_workers_losses(runs: dict[int, str]) -> None:
    one, two = (curves(runs[n])["steps"] for n in (1, 2))
    assert len(one) == len(two) == 6
    for key in ("loss", "classification", "localization", "rois", "foreground"):
        np.testing.assert_allclose(
            [row[key] for row in two], [row[key] for row in one], rtol=2e-4, err_msg=key
        )
    assert len({row["loss"] for row in one}) == 6


def test_two_workers_end_with_one_workers_weights(runs: dict[int, str], tmp_path: Path) -> None:
    storage.download_folder(storage.join(runs[2], "checkpoint"), tmp_path)
    one = load_file(Path(runs[1]) / "checkpoint" / "model.safetensors")
    two = load_file(tmp_path / "model.safetensors")
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=1e-5)


def test_both_validate_alike(runs: dict[int, str]) -> None:
    one, two = (curves(runs[n])["validations"] for n in (1, 2))
    assert [row["iteration"] for row in one] == [row["iteration"] for row in two] == [3, 6]
    np.testing.assert_allclose([r["val_map"] for r in one], [r["val_map"] for r in two], atol=0.02)


def test_the_checkpoint_says_what_it_was_trained_on(runs: dict[int, str]) -> None:
    checkpoint = load_checkpoint(Path(runs[1]) / "checkpoint")
    training = checkpoint.config["training"]
    assert training["num_images"] == 9
    assert training["flags"]["seed"] == 3
    assert set(training["versions"]) == {"python", "ray", "torch", "torchvision"}
    assert checkpoint.proposals.name == "grid"
    assert checkpoint.proposals.max_boxes == 200
    assert storage.read_bytes(storage.join(runs[2], "curves.png")).startswith(b"\x89PNG")


@pytest.mark.usefixtures("runs")
def test_a_finished_run_is_not_run_again(runs: dict[int, str], scenes: Path) -> None:
    again = train.run(config(str(scenes), runs[1], num_workers=2))
    assert again is not None
    assert again.num_iterations == 6
    assert again.checkpoint == storage.join(runs[1], "checkpoint")


def test_another_runs_output_is_refused_with_what_differs(
    runs: dict[int, str], scenes: Path
) -> None:
    with pytest.raises(UserError, match="seed was 3, is 4"):
        train.run(config(str(scenes), runs[1], seed=4))


@pytest.mark.usefixtures("ray_cluster")
def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_images(
    scenes: Path, tmp_path: Path
) -> None:
    with pytest.raises(JobError, match=r"loss at step \d .*not finite.*JPEGImages/00000\d.jpg"):
        train.run(config(str(scenes), str(tmp_path / "run"), learning_rate=1e30))


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
        ({"backbone": "vgg17"}, "known are"),
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


@pytest.mark.usefixtures("ray_cluster")
def test_unreadable_images_are_tolerated_up_to_a_share(scenes: Path, tmp_path: Path) -> None:
    data = tmp_path / "shapes"
    storage.upload_folder(scenes, str(data))
    first = (data / "ImageSets" / "Main" / "train.txt").read_text().split()[0]
    next((data / "JPEGImages").glob(f"{first}.*")).write_bytes(b"not an image")
    with pytest.raises(JobError, match="1 of 12 images cannot be used"):
        train.run(config(str(data), str(tmp_path / "out")))
