"""Other tools' libraries read the data sets that `jobs/export.py` writes: images, boxes and classes.

FiftyOne and Datumaro read VOC's corners, which count from 1, as if they counted from 0. So their boxes begin
one pixel further right and below. FiftyOne also cuts the fractions of VOC's corners.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from pipeline.config import ExportConfig
from pipeline.export import run
from tests.peers.environment import read, require_peers
from tests.pipeline.scored_runs import image, write_shard

pytestmark = pytest.mark.peers

CLASSES = ("cat", "traffic light", "dög")
SIZES = {"1.jpg": (640, 480), "2 b.jpg": (320, 240), "3.jpg": (200, 300)}
BOXES = {
    "1.jpg": [("traffic light", 0.0, 0.0, 16.0, 12.0), ("cat", 64.0, 48.0, 320.0, 240.0)],
    "2 b.jpg": [("cat", 10.5, 20.25, 100.5, 200.75)],
    "3.jpg": [("dög", 50.0, 60.0, 200.0, 300.0)],
}
FOLDERS = {"flat": ("", "", ""), "nested": ("", "x", "y z")}
LAYOUTS = ("yolo", "voc", "coco-dataset")
TOOLS = {
    "supervision": LAYOUTS,
    "datumaro": LAYOUTS,
    "fiftyone": LAYOUTS,
    "label_studio": ("yolo", "coco-dataset"),
    "pycocotools": ("coco-dataset",),
    "ultralytics": ("yolo",),
}
FLAT_ONLY = {("supervision", "yolo"), ("supervision", "voc"), ("label_studio", "yolo")}
"""These list only the top folder of the images."""
COUNT_FROM_0 = {("fiftyone", "voc"), ("datumaro", "voc")}
CUT_FRACTIONS = {("fiftyone", "voc")}


def export(root: Path, layout: str, folders: tuple[str, ...]) -> Path:
    """Score three images by hand, and export their boxes with their images; give the data set."""
    rows = []
    for (name, boxes), folder in zip(BOXES.items(), folders, strict=True):
        width, height = SIZES[name]
        path = root / "in" / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (width, height)).save(path)
        found = [(box[0], 0.9 - k / 10, box[1:]) for k, box in enumerate(boxes)]
        rows.append(image(str(path), *found, size=(height, width), classes=CLASSES))
    write_shard(str(root / "scores"), *rows, classes=CLASSES)
    places = {"scored": str(root / "scores"), "output": str(root / layout)}
    run(ExportConfig(format=layout, copy_images=True, **places))  # type: ignore[arg-type]
    if layout == "yolo":
        with (root / layout / "data.yaml").open("a") as file:
            file.write("val: images\n")  # as the comment at its top asks users of Ultralytics
    return root / layout


@pytest.mark.parametrize("tool", TOOLS)
def test_a_tool_reads_the_exports(tool: str, tmp_path: Path) -> None:
    require_peers()
    cases = [
        (layout, folders)
        for layout in TOOLS[tool]
        for folders in FOLDERS
        if folders == "flat" or (tool, layout) not in FLAT_ONLY
    ]
    sets = [(layout, export(tmp_path / f, layout, FOLDERS[f])) for layout, f in cases]
    results = read(tool, sets, home=tmp_path)
    for (layout, folders), images in zip(cases, results, strict=True):
        expected = {
            str(Path(folder) / name): boxes
            for (name, boxes), folder in zip(BOXES.items(), FOLDERS[folders], strict=True)
        }
        assert sorted(images) == sorted(expected), (layout, folders)
        shift = 1 if (tool, layout) in COUNT_FROM_0 else 0
        off = 1 if (tool, layout) in CUT_FRACTIONS else 0.01
        for name, boxes in expected.items():
            for seen, box in zip(sorted(images[name]), sorted(boxes), strict=True):
                corners = (box[1] + shift, box[2] + shift, *box[3:])
                assert seen[0] == box[0]
                assert seen[1:] == pytest.approx(corners, abs=off), (layout, folders, name)
