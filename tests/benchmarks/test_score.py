"""Tests of the score benchmark: Ray's example, and rates worked out by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import ray_example as benchmark_ray_example
from benchmarks.config import ScoreBenchmarkConfig
from benchmarks.images import photographs
from benchmarks.rates import comparison_lines, growth_lines, middle_rate
from fastrcnn.checkpoint import save_checkpoint
from fastrcnn.config import FastRCNNConfig, ProposalConfig
from fastrcnn.model import FastRCNN
from jobs import benchmark
from pipeline.draw_scenes import draw_split
from pipeline.errors import UserError
from pipeline.runtime.arguments import parse_arguments


def test_counts_accepts_several_numbers() -> None:
    flags = ["--images", "photos", "--counts", "300", "1000", "--bucket"]
    config = parse_arguments(ScoreBenchmarkConfig, flags, "benchmark")
    assert config == ScoreBenchmarkConfig(images=Path("photos"), counts=(300, 1000), bucket=True)


def test_fewer_than_two_batches_are_refused() -> None:
    with pytest.raises(
        UserError, match="--counts 15: expected at least two batches. Give at least 16"
    ):
        ScoreBenchmarkConfig(images=Path("photos"), counts=(100, 15))


@pytest.mark.parametrize("other", [{"bucket": True}, {"counts": (100, 200)}])
def test_daft_is_refused_where_it_would_not_be_measured(other: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="--daft: goes without --bucket and --counts"):
        ScoreBenchmarkConfig(images=Path("images"), daft=True, **other)


def test_too_few_photographs_are_repeated(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    a, b = tmp_path / "a.JPG", tmp_path / "b.png"
    assert photographs(tmp_path, 3) == [a, b, a]
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="holds no image. Give a folder of photographs"):
        photographs(tmp_path / "none", 3)


def test_a_rate_uses_the_middle_rows() -> None:
    # Twenty batches of two rows, one second apart. Start and end took much longer.
    seconds = np.repeat([0, *range(100, 120), 500], 2)
    assert middle_rate(seconds * 1_000_000) == 2


def test_tables_show_ratios_and_growth() -> None:
    lines = comparison_lines(
        {
            "bare_images_per_second": [8.0, 10.0, 12.0],
            "chain_images_per_second": [9.0, 9.0, 9.0],
            "ray_example_images_per_second": [3.0, 3.0, 3.0],
            "ratio": 0.9,
            "ray_example_ratio": 0.3,
            "times_as_fast_as_ray_example": 3.0,
        }
    )
    assert [line.split()[-2:] for line in lines[1:4]] == [
        ["10.00", "1.00"],
        ["9.00", "0.90"],
        ["3.00", "0.30"],
    ]
    assert lines[4] == "ours is 3.00 times as fast as Ray's documented example"
    rows = {
        "counts": (100, 1000),
        "chain_images_per_second": [10.0, 9.0],
        "seconds": [20.0, 120.0],
    }
    assert [line.split() for line in growth_lines(rows)[1:]] == [
        ["100", "10.00", "1.00", "20.0"],
        ["1000", "9.00", "0.90", "120.0"],
    ]


def test_the_example_uses_faster_rcnn_on_our_backbone() -> None:
    torch.manual_seed(0)
    model = FastRCNN(FastRCNNConfig.modern(2, backbone="tiny", scale=64, fc_dim=16)).eval()
    peer = benchmark_ray_example.faster_rcnn(model, max_proposals=7, score_threshold=0.0).eval()
    proposed: list[int] = []
    peer.rpn.register_forward_hook(lambda module, args, out: proposed.extend(map(len, out[0])))
    with torch.inference_mode():
        (result,) = peer([torch.rand(3, 200, 300)])
    assert proposed == [7]
    assert peer.backbone.backbone is model.backbone
    assert 0 < len(result["boxes"]) <= 2 * 7
    boxes = result["boxes"]
    assert (boxes >= 0).all()
    assert boxes[:, 2].max() > 128  # in the image frame; the model frame is 96 pixels wide
    assert (boxes <= torch.tensor([300, 200, 300, 200])).all()


def test_the_stages_of_the_example_give_one_row_per_image(tmp_path: Path) -> None:
    """The model has no RPN, and the images have two sizes: Ray gives such a batch as objects."""
    model = FastRCNN(FastRCNNConfig.modern(2, backbone="tiny", scale=64, fc_dim=16))
    save_checkpoint(
        tmp_path / "model", model, classes=("a", "b"), proposals=ProposalConfig(), training={}
    )
    detector = benchmark_ray_example.ObjectDetector(
        str(tmp_path / "model"), max_proposals=9, score_threshold=0.0, gpu=False, num_threads=1
    )
    pixels = [np.full((60, 90, 3), 255, np.uint8), np.zeros((90, 60, 3), np.uint8)]
    rows = [
        benchmark_ray_example.transformed({"path": f"{n}.jpg", "image": image})
        for n, image in enumerate(pixels)
    ]
    assert rows[0]["transformed"].shape == (3, 60, 90)
    assert rows[0]["transformed"].min() == 1
    images = np.empty(2, object)
    images[:] = [row["transformed"] for row in rows]
    result = detector({"path": np.array(["0.jpg", "1.jpg"], object), "transformed": images})
    assert result.schema.equals(benchmark_ray_example.RESULT)
    assert result["path"].to_pylist() == ["0.jpg", "1.jpg"]
    for boxes, scores in zip(
        result["boxes"].to_pylist(), result["scores"].to_pylist(), strict=True
    ):
        assert 0 < len(boxes) == len(scores) <= 2 * 9


@pytest.mark.long
@pytest.mark.parametrize(
    ("flags", "rates"),
    [
        (("--count", "24", "--bucket"), ("bare", "chain", "ray_example")),
        (("--counts", "24", "32"), ("chain",)),
        (("--counts", "24", "--nodes", "2"), ("chain",)),
    ],
)
def test_score_measures_and_writes_json(
    flags: tuple[str, ...], rates: tuple[str, ...], tmp_path: Path
) -> None:
    """The benchmark raises if a row is missing."""
    draw_split(tmp_path, "train", range(3), seed=0, size=(60, 90))
    model = ("--backbone", "tiny", "--scale", "64", "--proposals", "grid", "--max-proposals", "9")
    where = ("--images", tmp_path / "JPEGImages", "--output", tmp_path / "results")
    command = [sys.executable, benchmark.__file__, "score", *where, *model, *flags, "--rounds", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "results" / "results.json").read_text())["results"]
    for name in rates:
        assert all(rate > 0 for rate in written[f"{name}_images_per_second"])
    lines = comparison_lines if len(rates) == 3 else growth_lines
    assert done.stdout.splitlines()[-len(lines(written)) :] == lines(written)
