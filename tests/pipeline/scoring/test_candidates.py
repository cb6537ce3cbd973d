"""The CPU stage of scoring: tasks cover the shards, and images of similar shape are neighbours."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from fastrcnn.config import ProposalConfig
from pipeline.record import plan
from pipeline.scoring.candidates import ReadSettings, read_tasks, tasks
from pipeline.scoring.selection import select

SETTINGS = ReadSettings(proposals=ProposalConfig(name="grid", max_boxes=12))


def write_image(path: Path, size: tuple[int, int] = (40, 30)) -> None:
    Image.new("RGB", size, (90, 20, 10)).save(path)


def test_tasks_cover_every_row_of_the_shards_once(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for n in range(11):
        write_image(tmp_path / "in" / f"{n:02d}.png")
    listed = select(str(tmp_path / "in")).listed
    work = plan.extend(str(tmp_path / "out"), listed, shard_size=5)
    pieces = tasks(work, [0, 1, 2], 3)
    assert pieces["rows"].to_pylist() == [3, 2, 3, 2, 1]
    read = [
        r for n in range(5) for t in read_tasks(pieces.slice(n, 1), SETTINGS) for r in t.to_pylist()
    ]
    assert sorted((row["shard"], Path(row["image_uri"]).name) for row in read) == [
        (n // 5, f"{n:02d}.png") for n in range(11)
    ]
    assert {row["status"] for row in read} == {"ok"}


def test_images_of_similar_shape_follow_each_other(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for n in range(12):
        write_image(tmp_path / "in" / f"{n:02d}.png", (60, 30) if n % 2 else (30, 60))
    listed = select(str(tmp_path / "in")).listed
    work = plan.extend(str(tmp_path / "out"), listed, shard_size=50)
    (lot,) = read_tasks(tasks(work, [0], 50), SETTINGS, batch_size=4)
    assert lot["width"].to_pylist() == [30] * 6 + [60] * 6
