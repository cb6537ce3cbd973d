"""The benchmark of tiles: its data, its commands and its table. It trains nothing here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import tiles
from benchmarks.config import TilesConfig
from benchmarks.tiles import arguments, measure, table, trials
from pipeline.annotations import read_labelled_images
from pipeline.draw_scenes import draw_split, write_split
from pipeline.drawing.large_scenes import draw_large_scene, make_mosaic
from pipeline.drawing.scenes import Scene, draw_scene, scene_rng
from pipeline.errors import UserError


def small(tmp_path: Path, **changes: Any) -> TilesConfig:
    given: dict[str, Any] = {"iterations": 2, "seeds": (3, 4), "images": (2, 1, 1), "columns": 2}
    given |= {"sides": (300, 300), "output": tmp_path / "output", "weights": "none"}
    return TilesConfig(**(given | changes))


def test_a_large_scene_has_objects_of_all_sizes_and_is_made_from_its_seed() -> None:
    scene, again = (draw_large_scene(scene_rng(0, 1), (450, 600)) for _ in range(2))
    assert np.array_equal(scene.pixels, again.pixels)
    assert scene.pixels.shape == (450, 600, 3)
    sides = (scene.boxes[:, 2:] - scene.boxes[:, :2]).max(axis=1)
    assert sides.min() < 20
    assert 100 < sides.max() <= 300
    assert len(scene.labels) == len(scene.boxes) > 8
    assert (scene.boxes[:, :2] >= 0).all()
    assert (scene.boxes[:, 2:] <= (600, 450)).all()


def test_a_mosaic_moves_the_boxes_of_its_parts() -> None:
    parts = [
        Scene(
            pixels=np.full((20, 30 + n, 3), n, np.uint8),
            boxes=np.array([[1, 2, 3, 4]], np.float32),
            labels=(str(n),),
            masks=np.zeros((0, 20, 30), bool),
        )
        for n in range(3)
    ]
    mosaic = make_mosaic(parts, columns=2)
    assert mosaic.pixels.shape == (40, 64, 3)
    assert mosaic.boxes.tolist() == [[1, 2, 3, 4], [33, 2, 35, 4], [1, 22, 3, 24]]
    assert mosaic.labels == ("0", "1", "2")
    colours = [mosaic.pixels[at].tolist() for at in ((0, 32), (20, 0), (39, 63))]
    assert colours == [[1] * 3, [2] * 3, [128] * 3]


def test_both_trainings_differ_by_the_tiles_only(tmp_path: Path) -> None:
    config = small(tmp_path, mosaics=("cells",))
    made = trials(config)
    assert [(t.name, t.seed) for t in made[::2]] == [("scenes", 3), ("scenes", 4), ("cells", 3)]
    without, with_tiles = (arguments(config, trial) for trial in made[:2])
    changed = [a for a, b in zip(without, with_tiles, strict=False) if a != b]
    assert changed == [str(made[0].model)]
    assert with_tiles[len(without) :] == ["--tile", "640"]


def test_data_are_made_once(tmp_path: Path) -> None:
    draw_split(tmp_path / "shapes", "train", range(10), seed=0, size=(40, 50))
    draw_split(tmp_path / "shapes", "test", range(10, 15), seed=0, size=(40, 50))
    config = small(tmp_path, mosaics=(str(tmp_path / "shapes"),))
    for name, make in tiles.data_sets(config):
        tiles._make_once(config, name, make)
    data = config.output / "data"
    found = {
        (name, split): [i.size for i in read_labelled_images(str(data / name), split).images]
        for name in ("scenes", "shapes")
        for split in ("train", "val", "test")
    }
    assert found["scenes", "train"] == [(225, 300)] * 2
    # 8 images to train on make two mosaics of 4, the other 2 one that is half full.
    assert found["shapes", "train"] == [(80, 100)] * 2
    assert found["shapes", "val"] == [(40, 100)]
    assert found["shapes", "test"] == [(80, 100)]
    before = (data / "scenes" / "made.json").stat().st_mtime_ns
    tiles._make_once(config, "scenes", lambda: pytest.fail("it is drawn again"))
    assert (data / "scenes" / "made.json").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="made with other flags"):
        tiles._make_once(small(tmp_path, columns=3), "scenes", None)


def test_an_image_is_measured_with_and_without_tiles(tmp_path: Path, rpn_checkpoint: Path) -> None:
    folder, checkpoint = tmp_path / "data", tmp_path / "checkpoint"
    scene = draw_scene(scene_rng(0, 0), (80, 100), classes=("circle",), empty_share=0)
    write_split(folder, "test", [(0, scene)])
    checkpoint.mkdir()
    config = json.loads((rpn_checkpoint / "config.json").read_text())
    config["classes"] = ["circle", "square"]
    (checkpoint / "config.json").write_text(json.dumps(config))
    (checkpoint / "model.safetensors").write_bytes(
        (rpn_checkpoint / "model.safetensors").read_bytes()
    )
    assert measure(str(checkpoint), folder, None)["looks"] == 1
    assert measure(str(checkpoint), folder, 64)["looks"] == 5  # 2 rows of 2


def test_the_table_has_mean_and_range_of_each_way() -> None:
    numbers = dict.fromkeys(tiles.COLUMNS.values(), 50.0)
    rows = [
        {"data": "scenes", "way": "no tiles", "seed": 3, **numbers, "ap_small": 1.0},
        {"data": "scenes", "way": "no tiles", "seed": 4, **numbers, "ap_small": 4.0},
        {"data": "scenes", "way": "tiles in both", "seed": 3, **numbers, "ap_large": None},
    ]
    lines = table(rows).splitlines()
    assert len(lines) == 4
    assert "| scenes | no tiles | 3 4 |" in lines[2]
    assert "| 2.5 (1.0 to 4.0) |" in lines[2]
    assert lines[3].endswith("| 50.0 | - | 50.0 |")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"iterations": None}, "Give one of them"),
        ({"minutes": 1.0}, "Give one of them"),
        ({"sides": (400, 300)}, "the smaller one first"),
        ({"images": (1, 0, 1)}, "three numbers above 0"),
    ],
)
def test_impossible_flags_are_refused(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        small(tmp_path, **given)
