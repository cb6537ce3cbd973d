"""Exported boxes, read with the tools that they are for."""

from __future__ import annotations

import contextlib
import io
import json
import os
import runpy
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pipeline import storage
from pipeline.config import ExportConfig, TrainConfig
from pipeline.errors import UserError
from pipeline.export import run
from pipeline.training.data import read_data
from tests.pipeline.scored_runs import image, write_shard

JOB = Path(__file__).resolve().parents[2] / "jobs" / "export.py"
CLASSES = ("cat", 'dog "<&')
A, B = (64.0, 48.0, 320.0, 240.0), (0.0, 0.0, 16.0, 12.0)


@pytest.fixture
def scored(bucket: str) -> str:
    """Three images of 640 x 480, one of them empty, and a broken one."""
    write_shard(
        bucket,
        image("s3://b/in/b/2.jpg", ("cat", 0.5, A), ("cat", 0.25, B), classes=CLASSES),
        image("s3://b/in/a/1 ü.jpg", (CLASSES[1], 0.75, B), classes=CLASSES),
        image("s3://b/in/c/3.jpg", classes=CLASSES),
        image("s3://b/in/c/4.jpg", status="undecodable", error="cut short", classes=CLASSES),
        classes=CLASSES,
    )
    return bucket


def export(scored: str, kind: str, **flags: Any) -> dict[str, str]:
    """Run the export and return the content of each file, by name."""
    config: dict[str, Any] = {"scored": scored, "output": f"{scored}/{kind}", "format": kind}
    summary = run(ExportConfig(**config, **flags))
    return {storage.basename(uri): storage.read_bytes(uri).decode() for uri in summary.uris}


def coco(folder: Path, text: str, results: str) -> tuple[COCO, COCO]:
    """Load the labels and the results with pycocotools."""
    (folder / "truth.json").write_text(text)
    (folder / "results.json").write_text(results)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(folder / "truth.json")
        return truth, truth.loadRes(str(folder / "results.json"))


def test_coco_results_are_loaded_by_pycocotools(scored: str, tmp_path: Path) -> None:
    files = export(scored, "coco")
    truth, results = coco(tmp_path, files["coco_images.json"], files["coco_results.json"])
    assert [entry["file_name"] for entry in truth.loadImgs(truth.getImgIds())] == [
        "s3://b/in/a/1 ü.jpg",
        "s3://b/in/b/2.jpg",
        "s3://b/in/c/3.jpg",
    ]
    assert [entry["name"] for entry in truth.loadCats(truth.getCatIds())] == list(CLASSES)
    annotations = results.loadAnns(results.getAnnIds())
    names = ("image_id", "category_id", "bbox", "score")
    boxes = [tuple(found[name] for name in names) for found in annotations]
    assert boxes == [
        (1, 2, [0, 0, 16, 12], 0.75),
        (2, 1, [64, 48, 256, 192], 0.5),
        (2, 1, [0, 0, 16, 12], 0.25),
    ]


def test_coco_results_with_the_ids_of_an_annotation_file_can_be_measured_with_it(
    scored: str, tmp_path: Path
) -> None:
    names = {70: "b/2.jpg", 8: "1 ü.jpg"}
    truth: dict[str, Any] = {
        "images": [{"id": k, "file_name": n, "width": 640, "height": 480} for k, n in names.items()],
        "categories": [{"id": 44, "name": CLASSES[1]}, {"id": 3, "name": "cat"}, {"id": 5, "name": "cow"}],
        "annotations": [
            {"id": 1, "image_id": 70, "category_id": 3, "bbox": [64, 48, 256, 192], "area": 49152},
            {"id": 2, "image_id": 8, "category_id": 44, "bbox": [0, 0, 16, 12], "area": 192},
        ],
    }  # fmt: skip
    for entry in truth["annotations"]:
        entry["iscrowd"] = 0
    storage.write_bytes(f"{scored}/truth.json", json.dumps(truth).encode())
    files = export(scored, "coco", ids=f"{scored}/truth.json")
    assert list(files) == ["coco_results.json"]
    loaded, results = coco(tmp_path, json.dumps(truth), files["coco_results.json"])
    with contextlib.redirect_stdout(io.StringIO()):
        measured = COCOeval(loaded, results, "bbox")
        measured.evaluate()
        measured.accumulate()
        measured.summarize()
    assert measured.stats[0] == pytest.approx(1)


def test_ids_that_do_not_fit_are_named(scored: str) -> None:
    def ids(**content: Any) -> str:
        storage.write_bytes(f"{scored}/ids.json", json.dumps(content).encode())
        return f"{scored}/ids.json"

    categories = [{"id": k, "name": name} for k, name in enumerate(CLASSES)]
    with pytest.raises(UserError, match=r"ids.json: is not a COCO file"):
        export(scored, "coco", ids=ids(images=[]))
    with pytest.raises(UserError, match="has no category called 'cat'"):
        export(scored, "coco", ids=ids(images=[], categories=categories[1:]))
    images = [{"id": 1, "file_name": "9.jpg"}]
    with pytest.raises(UserError, match="9.jpg: has no row in run r1"):
        export(scored, "coco", ids=ids(images=images, categories=categories))
    with pytest.raises(UserError, match=r"nothing.json"):
        export(scored, "coco", ids=f"{scored}/nothing.json")
    with pytest.raises(UserError, match="has no effect with --format fiftyone"):
        export(scored, "fiftyone", ids="x.json")


def test_fiftyone_gets_labels_and_the_paths_of_the_samples(scored: str) -> None:
    files = export(scored, "fiftyone", image_root="/data/photos")
    data, labels = json.loads(files["data.json"]), json.loads(files["labels.json"])["labels"]
    assert data == {
        "000000000": "/data/photos/a/1 ü.jpg",
        "000000001": "/data/photos/b/2.jpg",
        "000000002": "/data/photos/c/3.jpg",
    }
    assert labels["000000000"] == [
        {"label": CLASSES[1], "bounding_box": [0, 0, 0.025, 0.025], "confidence": 0.75}
    ]
    places = [box["bounding_box"] for box in labels["000000001"]]
    assert places == [
        [0.1, 0.1, 0.4, 0.4],
        [0, 0, 0.025, 0.025],
    ]
    assert labels["000000002"] == []


def test_label_studio_gets_tasks_with_predictions_for_its_interface(scored: str) -> None:
    files = export(scored, "labelstudio", min_score=0.5)
    tasks = json.loads(files["tasks.json"])
    assert [task["data"]["image"] for task in tasks] == [
        "s3://b/in/a/1 ü.jpg",
        "s3://b/in/b/2.jpg",
        "s3://b/in/c/3.jpg",
    ]
    (prediction,) = tasks[1]["predictions"]
    assert (prediction["model_version"], prediction["score"]) == ("m1", 0.5)
    (region,) = prediction["result"]  # the box of .25 is left out
    assert region["value"] == {
        "x": 10, "y": 10, "width": 40, "height": 40, "rotation": 0, "rectanglelabels": ["cat"],
    }  # fmt: skip
    assert (region["original_width"], region["original_height"], region["score"]) == (640, 480, 0.5)
    assert tasks[2]["predictions"][0]["result"] == []
    view = ET.fromstring(files["label_config.xml"])
    picture, labels = view.find("Image"), view.find("RectangleLabels")
    assert picture is not None
    assert labels is not None
    assert (picture.get("name"), picture.get("value")) == (region["to_name"], "$image")
    assert (labels.get("name"), labels.get("toName")) == (region["from_name"], region["to_name"])
    assert [label.get("value") for label in labels] == list(CLASSES)


@pytest.mark.parametrize("copied", [True, False])
@pytest.mark.parametrize("kind", ["yolo", "voc", "coco-dataset"])
def test_a_labelled_data_set_is_read_by_a_training(bucket: str, kind: str, copied: bool) -> None:
    pixels = io.BytesIO()
    Image.new("RGB", (640, 480)).save(pixels, "JPEG")
    uris = [f"{bucket}/in/{name}.jpg" for name in ("a/1 ü", "b/2", "c/3")]
    for uri in uris:
        storage.write_bytes(uri, pixels.getvalue())
    write_shard(
        f"{bucket}/scores",
        image(uris[0], (CLASSES[1], 0.75, B), classes=CLASSES),
        image(uris[1], ("cat", 0.5, A), ("cat", 0.25, B), classes=CLASSES),
        image(uris[2], classes=CLASSES),
        classes=CLASSES,
    )
    output = f"{bucket}/{kind}"
    flags = {"scored": f"{bucket}/scores", "output": output, "min_score": 0.3}
    run(ExportConfig(format=kind, copy_images=copied, **flags))  # type: ignore[arg-type]
    apart = {} if copied else {"images_at": f"{bucket}/in"}
    config = TrainConfig(data=output, output=f"{bucket}/out", classes=CLASSES, **apart)
    training, validation = read_data(config)
    assert validation is None
    boxes = {
        image.image_uri.rpartition("/")[2]: (
            image.gt_labels.tolist(),
            image.gt_boxes.round(2).tolist(),
        )
        for image in training.images
    }
    assert boxes == {
        "1 ü.jpg": ([2], [list(B)]),
        "2.jpg": ([1], [list(A)]),
        "3.jpg": ([], []),
    }


def test_flags_without_effect_on_a_data_set_are_refused(scored: str) -> None:
    with pytest.raises(UserError, match="--copy-images: has no effect with --format coco"):
        ExportConfig(scored=scored, output="x", format="coco", copy_images=True)
    with pytest.raises(UserError, match="--image-root: has no effect with --format yolo"):
        ExportConfig(scored=scored, output="x", format="yolo", image_root="/mnt")


def test_limit_and_dry_run_are_obeyed(scored: str) -> None:
    config = {"scored": scored, "output": f"{scored}/out", "format": "labelstudio"}
    summary = run(ExportConfig(**config, limit=2, dry_run=True))
    assert (summary.images, summary.boxes) == (2, 3)
    assert storage.list_objects(f"{scored}/out", missing_ok=True) == []


def test_the_job_prints_one_line_of_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert os.access(JOB, os.X_OK)
    write_shard(str(tmp_path), image("1.jpg", ("cat", 0.5, A)))
    for flags, message in (
        (
            ("--format", "coco", "--min-score", "2"),
            "error: --min-score 2.0: expected a score from 0 to 1",
        ),
        (("--format", "pascal"), "pascal"),
        (("--format", "coco", "--run-id", "r9"), "error: --run-id r9: is not under"),
    ):
        places = ("--scored", str(tmp_path), "--output", str(tmp_path / "out"))
        monkeypatch.setattr(sys, "argv", [str(JOB), *places, *flags])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(JOB), run_name="__main__")
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
