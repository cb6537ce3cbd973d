"""A compressed checkpoint loads and detects nearly the same; mistakes are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fastrcnn.detection import detect
from pipeline.compress import run
from pipeline.config.tools import CompressConfig
from pipeline.errors import UserError
from pipeline.storage.checkpoints import copy, load


def test_at_full_rank_it_is_the_same_detector(tiny_checkpoint: Path, tmp_path: Path) -> None:
    before = load(str(tiny_checkpoint))
    width = before.model.config.fc_dim
    output = str(tmp_path / "small")
    given = str(tiny_checkpoint)
    run(CompressConfig(checkpoint=given, output=output, fc6_rank=width, fc7_rank=width))
    after = load(output)
    assert (after.classes, after.proposals) == (before.classes, before.proposals)
    assert (after.model.config.fc6_rank, after.model.config.fc7_rank) == (width, width)
    assert after.config["training"]["compressed_from"] == before.model_id
    assert after.model_id != before.model_id
    image = torch.randint(0, 256, (80, 100, 3), dtype=torch.uint8)
    boxes = torch.tensor([[0.0, 0, 50, 50], [20.0, 10, 90, 70]])
    (a,), (b,) = (
        detect(checkpoint.model, [image], [boxes], score_threshold=0.0)
        for checkpoint in (before, after)
    )
    torch.testing.assert_close(a.scores, b.scores, rtol=1e-4, atol=1e-5)


def test_by_default_a_head_of_any_width_keeps_the_shares_of_the_paper(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    width = load(str(tiny_checkpoint)).model.config.fc_dim
    run(CompressConfig(checkpoint=str(tiny_checkpoint), output=str(tmp_path / "small")))
    after = load(str(tmp_path / "small")).model.config
    assert (after.fc6_rank, after.fc7_rank) == (max(1, width // 4), max(1, width // 16))


def test_a_folder_with_other_files_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "results"
    config = CompressConfig(checkpoint=str(tiny_checkpoint), output=f"{output}/")
    (output / "scored").mkdir(parents=True)
    (output / "scored" / "0.parquet").write_bytes(b"rows")
    with pytest.raises(UserError, match=r"holds other files, such as scored/0\.parquet"):
        run(config)
    assert [path.name for path in output.iterdir()] == ["scored"]
    (output / "scored" / "0.parquet").rename(output / "model.safetensors")  # of an interrupted job
    run(config)
    assert load(str(output)).classes


def test_calibration_and_operating_points_stay(tiny_checkpoint: Path, tmp_path: Path) -> None:
    before = load(str(tiny_checkpoint))
    calibrated = before.config["model"] | {"calibration": [[1.5, -1.0]] * 2}
    points = {before.classes[0]: 0.25}
    given, output = str(tmp_path / "given"), str(tmp_path / "small")
    copy(
        str(tiny_checkpoint),
        given,
        before.config | {"model": calibrated, "operating_points": points},
    )
    run(CompressConfig(checkpoint=given, output=output, fc6_rank=4, fc7_rank=2))
    after = load(output)
    assert after.config["operating_points"] == points
    assert after.model.config.calibration == ((1.5, -1.0), (1.5, -1.0))


def test_too_high_ranks_and_an_output_with_a_checkpoint_are_refused(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    given, output = str(tiny_checkpoint), str(tmp_path / "small")
    with pytest.raises(UserError, match="rank=100000"):
        run(CompressConfig(checkpoint=given, output=output, fc6_rank=100_000))
    run(CompressConfig(checkpoint=given, output=output, fc6_rank=4, fc7_rank=2, dry_run=True))
    assert not Path(output).exists()
    run(CompressConfig(checkpoint=given, output=output, fc6_rank=4, fc7_rank=2))
    again = CompressConfig(checkpoint=given, output=output, fc6_rank=4, fc7_rank=2)
    with pytest.raises(UserError, match="holds a checkpoint"):
        run(again)
    twice = CompressConfig(checkpoint=output, output=str(tmp_path / "x"), fc6_rank=2, fc7_rank=1)
    with pytest.raises(UserError, match="truncated already"):
        run(twice)
