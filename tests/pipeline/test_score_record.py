"""The scoring job under faults of its record: lost plans, damaged shards, drivers at the same time."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline import record, score, storage
from pipeline.config import ScoreConfig
from pipeline.errors import JobError, UserError
from pipeline.record.manifest import Manifest
from pipeline.score import run
from tests.pipeline.record_cases import objects, wrong_hashes
from tests.pipeline.test_score_faults import rows
from tests.soak.images import drawn_images

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.*"),
    pytest.mark.usefixtures("ray_cluster"),
]


def add_images(config: ScoreConfig, count: int, letter: str) -> None:
    folder = Path(config.images)
    folder.mkdir(exist_ok=True)
    for name, data in drawn_images(count).items():
        (folder / f"{letter}{name}").write_bytes(data)


@pytest.fixture
def config(tmp_path: Path, tiny_checkpoint: Path) -> ScoreConfig:
    """A command for twelve images, in shards of four."""
    config = ScoreConfig(
        images=str(tmp_path / "in"),
        checkpoint=str(tiny_checkpoint),
        output=str(tmp_path / "out"),
        shard_size=4,
        batch_size=4,
    )
    add_images(config, 12, "m")
    return config


def whole(config: ScoreConfig) -> bool:
    """Whether every image has its row, once."""
    return sorted(uri for uri, _ in rows(config.output)) == sorted(
        map(str, Path(config.images).iterdir())
    )


def test_a_lost_plan_is_refused_and_made_again_by_a_flag(config: ScoreConfig) -> None:
    run_id = run(config).run_id
    shutil.rmtree(f"{config.output}/plans")
    Path(config.output, "exclusive-create-probe").unlink()
    add_images(config, 3, "a")
    before = objects(config.output)
    for refused in (config, replace(config, dry_run=True), replace(config, score_threshold=0.3)):
        with pytest.raises(UserError, match="--rebuild-plan"):
            run(refused)
    assert objects(config.output) == before
    summary = run(replace(config, rebuild_plan=True))
    assert (summary.run_id, summary.scored, summary.complete) == (run_id, 3, True)
    assert whole(config)
    assert run(config).scored == 0


def test_a_damaged_shard_is_refused_and_repaired_by_a_flag(
    config: ScoreConfig, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = run(config).run_id
    uri = record.shard_uri(config.output, run_id, 1)
    storage.write_bytes(uri, storage.read_bytes(uri)[:300])
    before = objects(config.output)
    with (
        caplog.at_level(logging.INFO),
        pytest.raises(UserError, match=r"00000001\.parquet.*--repair"),
    ):
        run(config)
    assert "nothing to score" not in caplog.text
    assert objects(config.output) == before
    summary = run(replace(config, repair=True))
    assert (summary.run_id, summary.scored, summary.complete) == (run_id, 4, True)
    assert whole(config)
    assert wrong_hashes(config.output, run_id) == []
    assert run(replace(config, verify=True)).scored == 0


def before_manifest(monkeypatch: pytest.MonkeyPatch, action: Callable[[], None]) -> None:
    """Call `action` when a driver has scored and has not written its manifest."""
    real = score.write_manifest

    def late(*args: Any, **kwargs: Any) -> Manifest:
        monkeypatch.setattr(score, "write_manifest", real)
        action()
        return real(*args, **kwargs)

    monkeypatch.setattr(score, "write_manifest", late)


def test_drivers_that_overlap_while_the_bucket_grows_all_succeed(
    config: ScoreConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first plans 12 images, the second 5 more in shards of 3, the third 2 more."""

    def second() -> None:
        add_images(config, 5, "a")
        before_manifest(monkeypatch, third)
        summaries.append(run(replace(config, shard_size=3)))

    def third() -> None:
        add_images(config, 2, "z")
        summaries.append(run(config))

    summaries: list[score.ScoreSummary] = []
    before_manifest(monkeypatch, second)
    summaries.append(run(config))
    assert [summary.scored for summary in summaries] == [2, 5, 12]
    assert [summary.images for summary in summaries] == [19, 19, 19]
    assert all(summary.complete for summary in summaries)
    assert whole(config)
    assert wrong_hashes(config.output, summaries[0].run_id) == []


def test_exit_code_2_is_never_given_once_workers_have_started(
    config: ScoreConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same error is a JobError (1) after scoring, and a UserError (2) where nothing is to do."""

    def drop_a_file() -> None:
        storage.write_bytes(f"{config.output}/scored/{run_id}/_SUCCESS", b"")

    run_id = run(replace(config, dry_run=True)).run_id
    before_manifest(monkeypatch, drop_a_file)
    with pytest.raises(JobError, match="_SUCCESS: is not a shard"):
        run(config)
    with pytest.raises(UserError, match="_SUCCESS: is not a shard"):
        run(config)


def test_a_repair_in_a_dry_run_is_refused(config: ScoreConfig) -> None:
    with pytest.raises(UserError, match="--repair --dry-run: a repair writes"):
        replace(config, repair=True, dry_run=True)
