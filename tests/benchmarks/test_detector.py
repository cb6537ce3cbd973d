"""Tests of the detector benchmark: all detectors give the same boxes, and floors are worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import detector as benchmark_detector
from benchmarks.config import DetectorBenchmarkConfig
from benchmarks.detector import measure, table
from benchmarks.roofline import Floor, Peak
from fastrcnn.config import FastRCNNConfig
from fastrcnn.model import FastRCNN
from pipeline.draw_scenes import draw_split


def config(folder: Path) -> DetectorBenchmarkConfig:
    draw_split(folder, "train", range(3), seed=0, size=(90, 110))
    return DetectorBenchmarkConfig(
        images=folder / "JPEGImages",
        proposals="grid",
        max_proposals=(40,),
        count=3,
        batch_size=2,
        rounds=1,
        output=folder / "results",
    )


def test_torchvision_gives_nearly_the_same_scores(tmp_path: Path) -> None:
    """Scores before NMS differ slightly, because torchvision resizes and pools in another way."""
    torch.manual_seed(0)
    small = {"backbone": "tiny", "scale": 96, "fc_dim": 16}
    numbers = FastRCNNConfig.modern(2, **small, score_threshold=0.0, nms_threshold=1.0)
    model = FastRCNN(numbers).eval()
    (batch, _) = benchmark_detector._batches(config(tmp_path), 40)
    results = {name: scorer(batch) for name, scorer in benchmark_detector._scorers(model).items()}
    for one, alone in zip(results["ours"], results["ours, one at a time"], strict=True):
        torch.testing.assert_close(one.scores, alone.scores, rtol=1e-3, atol=1e-5)
    pairs = zip(results["ours, all proposals"], results["torchvision"], strict=True)
    for every, peer in pairs:
        assert len(every.scores) > 50
        assert abs(len(every.scores) - len(peer["scores"])) <= 3
        few = min(len(every.scores), len(peer["scores"]))
        torch.testing.assert_close(every.scores[:few], peer["scores"][:few], rtol=0, atol=0.02)
    assert model.config.proposal_nms == numbers.proposal_nms


def test_the_floor_of_a_layer_is_its_operations_or_its_bytes() -> None:
    layer = torch.nn.Linear(64, 32, bias=False)
    rows = torch.ones(16, 64)
    for peak, expected in (
        (Peak(flops=1e6, bandwidth=1e30), 2 * 16 * 64 * 32 / 1e6),
        (Peak(flops=1e30, bandwidth=1e6), 4 * (16 * 64 + 64 * 32 + 16 * 32) / 1e6),
    ):
        floor = Floor(peak)
        with torch.inference_mode(), floor:
            layer(rows).relu()
        assert floor.seconds == pytest.approx(expected)
        assert floor.flops == 2 * 16 * 64 * 32


def test_a_convolution_is_counted_once() -> None:
    layer = torch.nn.Conv2d(3, 8, 3, padding=1)
    floor = Floor(Peak(flops=1.0, bandwidth=1e30))
    with torch.inference_mode(), floor:
        layer(torch.ones(2, 3, 10, 12))
    assert floor.flops == 2 * (2 * 8 * 10 * 12) * 3 * 9


@pytest.mark.parametrize("groups", [1, 8])
def test_backward_costs_the_forward_pass_once_for_each_gradient(groups: int) -> None:
    layer = torch.nn.Conv2d(8, 8, 3, padding=1, groups=groups)
    floor = Floor(Peak(flops=1.0, bandwidth=1e30))
    forward = 2 * (2 * 8 * 10 * 12) * (8 // groups) * 9
    with floor:
        layer(torch.ones(2, 8, 10, 12, requires_grad=True)).sum().backward()
    assert floor.flops == 3 * forward
    floor = Floor(Peak(flops=1.0, bandwidth=1e30))
    with floor:
        layer(
            torch.ones(2, 8, 10, 12)
        ).sum().backward()  # the input needs no gradient, like the images of the first layer
    assert floor.flops == 2 * forward


def test_ratios_compare_the_same_batch() -> None:
    calls: list[str] = []
    scorers = {name: lambda batch, name=name: calls.append(name) or [] for name in ("a", "b")}
    results = measure(scorers, [([], []), ([], [])], 2, torch.device("cpu"))  # type: ignore[arg-type]
    assert calls[:2] == ["a", "b"]  # not measured
    assert calls[2:] == ["a", "b", "b", "a"] * 2
    assert results["a"].beside_ours == 1


def test_detector_prints_a_table_and_writes_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = config(tmp_path)
    benchmark_detector.run(settings)
    lines = capsys.readouterr().out.splitlines()
    assert [line[:26].strip() for line in lines] == [
        "40 proposals",
        "ours",
        "ours, float32",
        "ours, all proposals",
        "ours, one at a time",
        "torchvision",
        "floor",
        lines[-1][:26].strip(),
    ]
    written = json.loads((tmp_path / "results" / "results.json").read_text())["results"]
    assert table(written["tables"]["40"], 40) == lines
    assert written["peak"]["flops"] > 1e9
    assert lines[-1].startswith("ours: convolutions ")
    assert 0 < written["tables"]["40"]["gflop_an_image"] < 1000
