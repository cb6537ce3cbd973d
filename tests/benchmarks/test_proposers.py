from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import proposers as benchmark_proposers
from benchmarks.config import ProposersConfig
from benchmarks.proposers import ablation, table
from pipeline.ablation.comparisons import rows
from pipeline.draw_scenes import draw_split


def test_training_uses_trainval_or_else_train(tmp_path: Path) -> None:
    for split in ("train", "trainval"):
        for each in (split, "test"):
            draw_split(tmp_path / split, each, range(1), seed=0, size=(90, 110))
        config = ProposersConfig(data=(str(tmp_path / split),), weights="none", epochs=2)
        flags = ablation(config, config.data[0], str(tmp_path / "out"))
        assert (flags.split, flags.test_split, flags.epochs) == (split, "test", 2)
        assert len(rows(flags)) == 4 * 3


def test_a_line_has_a_setting_with_mean_and_range_over_seeds() -> None:
    given = [
        {"setting": setting, "map": value, "recall": 0.9, "average_recall": 0.5, "image_seconds": s}
        for setting, value, s in (("grid", 0.6, 0.03), ("grid", 0.7, 0.02), ("rpn", 0.8, 0.05))
    ]
    lines = table({"cells": given})
    assert lines[2:] == [
        "| cells | grid | 65.0 (60.0 to 70.0) | 0.900 (0.900 to 0.900) | 0.500 (0.500 to 0.500) | 20 |",
        "| cells | rpn | 80.0 | 0.900 | 0.500 | 50 |",
    ]


@pytest.mark.long
@pytest.mark.usefixtures("ray_cluster")
def test_every_data_set_has_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("one", "two"):
        for split in ("train", "test"):
            draw_split(tmp_path / name, split, range(2), seed=0, size=(90, 110))
    config = ProposersConfig(
        data=(str(tmp_path / "one"), str(tmp_path / "two")),
        weights="none",
        backbone="tiny",
        scale=96,
        fc_dim=16,
        max_proposals=40,
        rois_per_image=8,
        epochs=1,
        seeds=(3,),
        output=tmp_path / "output",
    )
    benchmark_proposers.run(config)
    lines = (tmp_path / "output" / "proposers.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["one"] * 4 + ["two"] * 4
    assert capsys.readouterr().out.splitlines()[-len(lines) :] == lines
    results = json.loads((tmp_path / "output" / "results.json").read_text())["results"]
    assert all(row["iterations"] == 1 for rows in results.values() for row in rows)
