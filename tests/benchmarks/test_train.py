"""Tests of the training benchmark: tables from invented histories, and real steps of all loops."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import train as benchmark_train
from benchmarks.config import TrainBenchmarkConfig
from benchmarks.roofline import Floor, Peak
from benchmarks.train import scaling_lines
from benchmarks.train_loops import WARM, beside_torchvision, peer_lines
from pipeline.draw_scenes import draw_split
from pipeline.errors import UserError


def history(seconds: float, losses: list[float]) -> list[dict[str, float]]:
    return [{"loss": loss, "seconds": seconds, "waited": seconds / 10} for loss in losses]


def test_efficiency_is_limited_by_the_number_of_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(benchmark_train.os, "cpu_count", lambda: 2)
    losses = [2.0, 1.5, 1.2, 1.0, 0.8]
    runs = {
        1: history(2.0, losses),
        2: history(1.25, losses),
        4: history(1.25, [*losses[:-1], 0.88]),
    }
    head, one, two, four = scaling_lines(runs, 4)
    assert "(2 cores)" in head
    assert one.split() == ["1", "2.00", "1.00", "100%", "10.0%", "0.8000", "0.0e+00"]
    assert two.split() == ["2", "3.20", "1.60", "80%", "10.0%", "0.8000", "0.0e+00"]
    assert four.split() == ["4", "3.20", "1.60", "80%", "10.0%", "0.8800", "1.0e-01"]


def test_ratios_are_taken_step_by_step() -> None:
    floor = Floor(Peak(flops=1.0, bandwidth=1.0))
    floor.seconds, floor.flops = 0.5, 8e9
    lines = peer_lines({"ours": [1.0, 2.0, 4.0], "torchvision": [2.0, 4.0, 4.0]}, floor, 4)
    assert lines[1].split() == ["ours", "2.00", "25%", "1.00"]
    assert lines[2].split() == ["torchvision", "1.00", "12%", "2.00"]
    assert lines[3].split()[:3] == ["floor", "8.00", "(2.0"]
    assert len(lines) == 4


def test_proposals_rpn_is_refused() -> None:
    with pytest.raises(UserError, match="comparisons faster_rcnn"):
        TrainBenchmarkConfig(data="data", proposals="rpn")


def test_all_loops_use_the_same_batches(tmp_path: Path) -> None:
    draw_split(tmp_path, "train", range(4), seed=0, size=(90, 110))
    config = TrainBenchmarkConfig(
        data=str(tmp_path), backbone="tiny", scale=64, fc_dim=16, rois_per_image=8, iterations=5
    )
    seconds, floor = beside_torchvision(config.training("unused", 1), config.iterations)
    assert list(seconds) == ["ours", "ours, float32", "the same, norms apart", "torchvision"]
    assert {len(times) for times in seconds.values()} == {5 - WARM}
    assert min(min(times) for times in seconds.values()) > 0
    assert min(floor.seconds, floor.flops) > 0
