"""A hand-made scoring run against hand-made labels, in a bucket and on disk, in process and as a job."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline import storage
from pipeline.annotations.split_files import split_file
from pipeline.config import EvaluateConfig
from pipeline.errors import UserError
from pipeline.evaluate import format_table, run
from pipeline.schema import SCORED, encode_parquet, scored_metadata

JOB = Path(__file__).resolve().parents[2] / "jobs" / "evaluate.py"
DETECTOR_CLASSES = ("ring", "cross")  # VOC folders number them by name: cross 1, ring 2

Object = tuple[str, tuple[int, int, int, int]]
Found = tuple[str, float, tuple[int, int, int, int]]

LEFT, RIGHT, LOW = (0, 0, 20, 20), (40, 0, 60, 20), (0, 30, 20, 48)

# Both classes are found in a.jpg; the ring of b.jpg only as a second guess; c.jpg shows nothing.
LABELS: dict[str, Sequence[Object]] = {
    "a.jpg": [("ring", LEFT), ("cross", RIGHT)],
    "b.jpg": [("ring", LOW)],
    "c.jpg": [],
}
SCORED_ROWS: dict[str, Sequence[Found]] = {
    "a.jpg": [("ring", 0.9, LEFT), ("cross", 0.8, RIGHT)],
    "b.jpg": [("ring", 0.7, LEFT), ("ring", 0.6, LOW)],
    "c.jpg": [],
}
FILES = [
    "confusion.parquet",
    "matches.parquet",
    "metrics.json",
    "operating_points.parquet",
    "pr_curves.png",
]
RING_AREA = 0.5 * 1 + 0.5 * 2 / 3
RING_VOC07 = (6 * 1 + 5 * 2 / 3) / 11


def _write_labels(data: str, labels: dict[str, Sequence[Object]], split: str = "test") -> None:
    """A VOC folder; boxes become 1-based and inclusive. `!` before a class: difficult."""
    picture = io.BytesIO()
    Image.new("RGB", (64, 48)).save(picture, "JPEG")
    for name, objects in labels.items():
        xml = "".join(
            f"<object><name>{c.lstrip('!')}</name><difficult>{int(c[0] == '!')}</difficult><bndbox>"
            f"<xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
            "</bndbox></object>"
            for c, (x1, y1, x2, y2) in objects
        )
        stem = name.removesuffix(".jpg")
        text = f"<annotation>{xml}</annotation>"
        storage.write_bytes(storage.join(data, "Annotations", f"{stem}.xml"), text.encode())
        storage.write_bytes(storage.join(data, "JPEGImages", name), picture.getvalue())
    names = "".join(f"{name.removesuffix('.jpg')}\n" for name in labels)
    storage.write_bytes(storage.join(data, "ImageSets/Main", f"{split}.txt"), names.encode())


def _write_scored(
    output: str,
    images: str,
    rows: dict[str, Sequence[Found]],
    *,
    run_id: str = "r1",
    shard: int = 0,
    day: int = 1,
    status: str = "ok",
    classes: tuple[str, ...] = DETECTOR_CLASSES,
    size: tuple[int, int] | None = None,
    num_tiles: int | None = None,
) -> None:
    def detection(found: Found) -> dict[str, Any]:
        label, score, (x1, y1, x2, y2) = found
        corners = {"x_min": x1, "y_min": y1, "x_max": x2, "y_max": y2}
        return {"label": label, "label_id": classes.index(label) + 1, "score": score, **corners}

    table = pa.Table.from_pylist(
        [
            {
                "image_uri": storage.join(images, name),
                "status": status,
                "run_id": run_id,
                "height": size and size[0],
                "width": size and size[1],
                "num_tiles": num_tiles,
                "scored_at": datetime(2026, 1, day, tzinfo=UTC),
                "detections": [detection(f) for f in found] if status == "ok" else None,
            }
            for name, found in rows.items()
        ],
        schema=SCORED,
    )
    uri = storage.join(output, "scored", run_id, f"{shard:08d}.parquet")
    storage.write_bytes(uri, encode_parquet(table, metadata=scored_metadata(classes, "m1")))


@pytest.fixture
def work(bucket: str) -> str:
    """A bucket with labels under data/ and the run r1 of the same images under out/."""
    _write_labels(f"{bucket}/data", LABELS)
    _write_scored(f"{bucket}/out", f"{bucket}/data/JPEGImages", SCORED_ROWS)
    return bucket


def _config(work: str, **flags: Any) -> EvaluateConfig:
    return EvaluateConfig(scored=f"{work}/out", data=f"{work}/data", **flags)


def test_classes_are_matched_by_name_and_the_measures_equal_those_by_hand(work: str) -> None:
    result = run(_config(work))
    assert result.classes == DETECTOR_CLASSES
    assert result.voc07.num_gt.tolist() == [2, 1]
    assert result.voc10.ap == pytest.approx([RING_AREA, 1])
    assert result.voc07.ap == pytest.approx([RING_VOC07, 1])
    assert result.voc10.mean_ap == pytest.approx((RING_AREA + 1) / 2)
    # 101 points: 51 at precision 1, 50 at 2/3; every overlap is exact, so no IoU of COCO's matters.
    assert result.coco.ap == pytest.approx(((51 + 50 * 2 / 3) / 101 + 1) / 2)
    assert result.images_by_status == {"ok": 3}
    assert result.num_detections == 4
    # Of four boxes from .6, the one with .7 is wrong; each has a bin to itself.
    assert (result.at_half.precision, result.at_half.recall) == (0.75, 1)
    assert result.at_half.calibration_error == pytest.approx((0.1 + 0.2 + 0.7 + 0.4) / 4)


def test_it_writes_the_measures_and_the_curves(work: str) -> None:
    result = run(_config(work))
    folder = f"{work}/out/evaluation/r1"
    names = [storage.basename(info.uri) for info in storage.list_objects(folder)]
    assert names == FILES
    metrics = json.loads(storage.read_bytes(f"{folder}/metrics.json"))
    assert metrics["voc07"] == {
        "mean_ap": result.voc07.mean_ap,
        "ap": {"ring": result.voc07.ap[0], "cross": 1.0},
    }
    assert metrics["voc10"]["mean_ap"] == result.voc10.mean_ap
    assert metrics["at_half"] == result.at_half.as_json()
    assert metrics["coco"]["ap75"] == result.coco.ap75
    assert metrics["coco"]["ap_large"] is None  # there is no large object
    assert metrics["coco"]["ap_per_class"]["cross"] == pytest.approx(1)
    assert metrics["num_objects"] == {"ring": 2, "cross": 1}
    assert (metrics["run_id"], metrics["model_id"], metrics["num_images"]) == ("r1", "m1", 3)
    picture = Image.open(io.BytesIO(storage.read_bytes(f"{folder}/pr_curves.png")))
    assert picture.format == "PNG"
    assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 10


def test_nothing_is_ever_written_under_scored(work: str) -> None:
    run(EvaluateConfig(scored=f"{work}/out/scored/r1", data=f"{work}/data"))
    assert len(storage.list_objects(f"{work}/out/scored")) == 1
    assert storage.exists(f"{work}/out/evaluation/r1/metrics.json")


def test_a_dry_run_measures_but_writes_nothing(work: str) -> None:
    before = storage.list_objects(work)
    assert run(_config(work, dry_run=True)).images_by_status == {"ok": 3}
    assert storage.list_objects(work) == before


def _rows(uri: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(io.BytesIO(storage.read_bytes(uri))).to_pylist()
    return rows


def test_it_writes_the_operating_points_of_each_class(work: str) -> None:
    run(_config(work, at_precision=0.9, at_recall=0.4))
    rows = _rows(f"{work}/out/evaluation/r1/operating_points.parquet")
    assert [(row["label"], row["kind"]) for row in rows] == [
        (label, kind) for label in DETECTOR_CLASSES for kind in ("best_f1", "precision", "recall")
    ]
    points = [[row[name] for name in ("threshold", "precision", "recall", "f1")] for row in rows]
    # Rings with .9 (right), .7 (wrong) and .6 (right), and two objects. One cross with .8.
    assert points[0] == pytest.approx([0.6, 2 / 3, 1, 0.8])
    assert points[1] == pytest.approx([0.8, 1, 0.5, 2 / 3])
    assert points[2] == pytest.approx([0.8, 1, 0.5, 2 / 3])
    assert points[3] == pytest.approx([0.8, 1, 1, 1])
    metrics = json.loads(storage.read_bytes(f"{work}/out/evaluation/r1/metrics.json"))
    assert metrics["at_best_f1"] == pytest.approx({"precision": 0.75, "recall": 1, "f1": 6 / 7})


def test_it_writes_what_is_right_wrong_and_missed(work: str) -> None:
    """The cross is also taken for a ring, and a difficult ring does not count. Half of the boxes are cut."""
    _write_labels(f"{work}/two", {"a.jpg": [("ring", LEFT), ("cross", RIGHT), ("!ring", LOW)]})
    uri = f"{work}/two/JPEGImages/a.jpg"
    found = [("ring", 0.9, LEFT), ("ring", 0.8, RIGHT), ("ring", 0.7, LOW), ("cross", 0.25, RIGHT)]
    _write_scored(f"{work}/two", f"{work}/two/JPEGImages", {"a.jpg": found})
    run(EvaluateConfig(scored=f"{work}/two", data=f"{work}/two"))
    rows = _rows(f"{work}/two/evaluation/r1/matches.parquet")
    assert [
        (row["image_uri"], row["kind"], row["label"], row["gt_label"], row["above"]) for row in rows
    ] == [
        (uri, "tp", "ring", "ring", True),
        (uri, "fp", "ring", "cross", False),  # the best F1 of rings is above it
        (uri, "tp", "cross", "cross", True),
    ]
    assert [row["score"] for row in rows] == pytest.approx([0.9, 0.8, 0.25])
    assert [row["iou"] for row in rows] == [1, 1, 1]
    assert tuple(rows[1][name] for name in ("x_min", "y_min", "x_max", "y_max")) == RIGHT
    counts = _rows(f"{work}/two/evaluation/r1/confusion.parquet")
    assert counts == [
        {"label": "ring", "found_as": "ring", "count": 1},
        {"label": "cross", "found_as": "cross", "count": 1},
    ]


def test_boxes_and_objects_on_the_background_are_counted(work: str) -> None:
    run(_config(work))
    assert _rows(f"{work}/out/evaluation/r1/confusion.parquet") == [
        {"label": "ring", "found_as": "ring", "count": 2},
        {"label": "cross", "found_as": "cross", "count": 1},
        {"label": "background", "found_as": "ring", "count": 1},
    ]
    _write_scored(f"{work}/none", f"{work}/data/JPEGImages", dict.fromkeys(SCORED_ROWS, ()))
    run(EvaluateConfig(scored=f"{work}/none", data=f"{work}/data"))
    assert _rows(f"{work}/none/evaluation/r1/confusion.parquet") == [
        {"label": "ring", "found_as": "background", "count": 2},
        {"label": "cross", "found_as": "background", "count": 1},
    ]
    missed = _rows(f"{work}/none/evaluation/r1/matches.parquet")
    assert [(row["kind"], row["score"], row["above"]) for row in missed] == [("fn", None, True)] * 3
    (point, _) = _rows(f"{work}/none/evaluation/r1/operating_points.parquet")
    assert (point["label"], point["kind"], point["threshold"]) == ("ring", "best_f1", None)


def _cut_warnings(
    work: str, caplog: pytest.LogCaptureFixture, model: dict[str, Any], threshold: float | None
) -> list[str]:
    described = {"config": {"score_threshold": threshold}, "checkpoint": {"model": model}}
    storage.write_bytes(f"{work}/out/runs/r1/config.json", json.dumps(described).encode())
    caplog.clear()
    run(_config(work, dry_run=True))
    return [r.getMessage() for r in caplog.records if "has no boxes with a score" in r.getMessage()]


@pytest.mark.parametrize(
    ("model", "threshold", "cut"),
    [
        ({"score_threshold": 0.05}, None, None),
        ({"score_threshold": 0.05}, 0.0, None),
        ({"score_threshold": 0.05}, 0.5, "0.5"),
        ({"score_threshold": 0.3}, None, "0.3"),
        # sigmoid(logit(score) - 3): a written .02 was .29 before calibration, a written .001 was .02.
        ({"score_threshold": 0.05, "calibration": [[1, -3]] * 2}, None, None),
        ({"score_threshold": 0.05, "calibration": [[1, -3]] * 2}, 0.02, "0.02"),
        ({"score_threshold": 0.05, "calibration": [[1, -3]] * 2}, 0.001, None),
        ({"score_threshold": -1.0, "classifier": "svm"}, None, None),
    ],
)
def test_a_run_whose_low_scores_were_cut_is_named(
    work: str,
    caplog: pytest.LogCaptureFixture,
    model: dict[str, Any],
    threshold: float | None,
    cut: str | None,
) -> None:
    warnings = _cut_warnings(work, caplog, model, threshold)
    assert len(warnings) == (cut is not None)
    assert all(f"run r1 has no boxes with a score below {cut}." in text for text in warnings)


def test_a_share_above_one_is_refused(work: str) -> None:
    for flag in ("at_precision", "at_recall"):
        for share in (0, 1.5, -1, float("nan")):
            with pytest.raises(UserError, match=f"--{flag.replace('_', '-')} .*expected a share"):
                _config(work, **{flag: share})


def test_the_files_are_written_to_the_given_output(work: str, tmp_path: Path) -> None:
    run(_config(work, output=str(tmp_path / "report")))
    assert sorted(p.name for p in (tmp_path / "report").iterdir()) == FILES
    assert storage.list_objects(f"{work}/out/evaluation", missing_ok=True) == []


def test_labels_on_disk_are_matched_with_images_scored_in_a_bucket(
    bucket: str, tmp_path: Path
) -> None:
    _write_labels(str(tmp_path), LABELS)
    _write_scored(f"{bucket}/out", f"{bucket}/inbox/today", {**SCORED_ROWS, "other.jpg": []})
    result = run(EvaluateConfig(scored=f"{bucket}/out", data=str(tmp_path)))
    assert result.voc10.ap == pytest.approx([RING_AREA, 1])


def test_the_newest_row_of_an_image_counts(work: str) -> None:
    images = f"{work}/data/JPEGImages"
    _write_scored(f"{work}/out", images, {"b.jpg": [("ring", 0.95, LOW)]}, shard=1, day=2)
    assert run(_config(work)).voc10.ap.tolist() == [1, 1]


def test_an_image_without_a_result_counts_as_one_without_detections(
    work: str, caplog: pytest.LogCaptureFixture
) -> None:
    images = f"{work}/data/JPEGImages"
    _write_scored(f"{work}/out", images, {"b.jpg": []}, shard=1, day=2, status="undecodable")
    with caplog.at_level("INFO"):
        result = run(_config(work))
    assert result.images_by_status == {"ok": 2, "undecodable": 1}
    assert result.voc10.ap == pytest.approx([0.5, 1])
    assert "1 of 3 images have no result (undecodable: 1)" in caplog.text


def test_difficult_objects_do_not_count(bucket: str) -> None:
    _write_labels(f"{bucket}/data", {"a.jpg": [("ring", LEFT), ("!ring", LOW)]})
    found = [("ring", 0.9, LOW), ("ring", 0.8, LEFT)]
    _write_scored(f"{bucket}/out", f"{bucket}/data/JPEGImages", {"a.jpg": found})
    result = run(_config(bucket))
    assert result.voc07.num_gt.tolist() == [1, 0]
    assert (result.voc07.mean_ap, result.coco.ap) == pytest.approx((1, 1))


def test_only_the_given_classes_are_evaluated(work: str) -> None:
    result = run(_config(work, classes=("cross",)))
    assert result.classes == ("cross",)
    assert result.voc10.ap.tolist() == [1]
    assert (result.num_detections, result.voc10.num_gt.tolist()) == (1, [1])


def test_a_run_without_a_detection_has_an_average_precision_of_zero(bucket: str) -> None:
    _write_labels(f"{bucket}/data", LABELS)
    _write_scored(f"{bucket}/out", f"{bucket}/data/JPEGImages", {name: [] for name in LABELS})
    result = run(_config(bucket))
    assert (result.voc07.mean_ap, result.voc10.mean_ap, result.coco.ap) == (0, 0, 0)


def test_a_run_with_tiles_may_have_more_boxes_in_an_image(
    bucket: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    _write_labels(f"{bucket}/data", {"a.jpg": [("cross", LEFT)]})
    false: list[Found] = [("cross", 0.9, (50, 40, 60, 47))] * 150
    rows = {"a.jpg": [*false, ("cross", 0.5, LEFT)]}
    for run_id, num_tiles in (("r1", None), ("r2", 1)):
        _write_scored(
            f"{bucket}/out", f"{bucket}/data/JPEGImages", rows, run_id=run_id, num_tiles=num_tiles
        )
    # The object has the 151st box of the image: COCO counts 100, and 200 with one tile.
    plain, tiled = (run(_config(bucket, run_id=run_id)) for run_id in ("r1", "r2"))
    assert (plain.most_detections, tiled.most_detections) == (100, 200)
    assert (plain.coco.ar_100, tiled.coco.ar_100) == (0, 1)
    assert tiled.coco.ap == pytest.approx(1 / 151)
    assert "up to 200 detections of a class in an image, not 100" in caplog.text
    written = json.loads(storage.read_bytes(f"{bucket}/out/evaluation/r2/metrics.json"))
    assert written["coco"]["max_dets"] == 200


def test_a_limit_keeps_the_first_images_of_the_split(work: str) -> None:
    assert run(_config(work, limit=1)).voc10.ap.tolist() == [1, 1]


@pytest.mark.parametrize("source", ["test", "train"])
def test_a_split_file_names_the_images_to_evaluate_on(
    work: str, tmp_path: Path, source: str
) -> None:
    """A training writes such a file: some images of one of its splits."""
    _write_labels(f"{work}/data", LABELS, split="train")
    split = tmp_path / "test.txt"
    split.write_bytes(split_file([f"{work}/data/JPEGImages/a.jpg"], [f"{work}/data"], source))
    result = run(_config(work, split=str(split)))
    assert result.images_by_status == {"ok": 1}
    assert result.voc10.ap.tolist() == [1, 1]


def test_classes_with_awkward_names_can_be_drawn_and_written(bucket: str) -> None:
    classes = ("$x_{", "_hidden", "a%s")
    _write_labels(f"{bucket}/data", {"a.jpg": [(name, LEFT) for name in classes]})
    found = [(name, 0.5, LEFT) for name in classes]
    images = f"{bucket}/data/JPEGImages"
    _write_scored(f"{bucket}/out", images, {"a.jpg": found}, classes=classes)
    assert run(_config(bucket, output=f"{bucket}/$x")).voc07.mean_ap == 1
    assert storage.exists(f"{bucket}/$x/pr_curves.png")


def test_the_table_has_one_line_per_class_and_the_means(work: str) -> None:
    lines = format_table(run(_config(work, dry_run=True))).splitlines()
    assert [line.split()[0] for line in lines] == ["class", "ring", "cross", "mean"]
    assert lines[1].split() == ["ring", "2", f"{RING_VOC07:.4f}", f"{RING_AREA:.4f}", "0.8350"]
    assert lines[3].split()[1] == "3"


# --- mistakes of the user ------------------------------------------------------------------------


def test_an_image_of_the_split_without_a_row_is_named(work: str) -> None:
    _write_labels(f"{work}/data", {**LABELS, "d.jpg": []})
    with pytest.raises(UserError, match=r"d.jpg: has no row in run r1; 1 of the 4 labelled"):
        run(_config(work))


def test_a_class_that_the_detector_does_not_know_is_named_with_its_file(work: str) -> None:
    _write_labels(f"{work}/data", {**LABELS, "c.jpg": [("star", LEFT)]})
    with pytest.raises(
        UserError, match=r"class 'star' in .*c.xml: .* has only the classes ring, cross"
    ):
        run(_config(work))
    assert run(_config(work, classes=DETECTOR_CLASSES)).voc10.ap == pytest.approx([RING_AREA, 1])


def test_a_class_in_the_flags_that_the_detector_does_not_know_is_refused(work: str) -> None:
    with pytest.raises(
        UserError, match=r"--classes star: .* Expected some of its classes: ring, cross"
    ):
        run(_config(work, classes=("ring", "star")))


def test_several_runs_need_a_run_id(work: str) -> None:
    _write_scored(f"{work}/out", f"{work}/data/JPEGImages", SCORED_ROWS, run_id="r2")
    with pytest.raises(UserError, match="Give --run-id: r1, r2"):
        run(_config(work))
    assert run(_config(work, run_id="r2")).run_id == "r2"


def test_a_missing_data_set_split_or_run_is_refused(work: str) -> None:
    with pytest.raises(UserError, match="s3://no-such-bucket/data"):
        run(EvaluateConfig(scored=f"{work}/out", data="s3://no-such-bucket/data"))
    with pytest.raises(UserError, match=r"split 'holdout' of .* Its splits are: test"):
        run(_config(work, split="holdout"))
    with pytest.raises(UserError, match="--run-id r9: is not under"):
        run(_config(work, run_id="r9"))


# --- the job -------------------------------------------------------------------------------------


def _lying_photo(bucket: str, stated: tuple[int, int]) -> None:
    """Make a.jpg a photo of 64 x 48 pixels that EXIF turns; its boxes are given in the stored frame."""
    sink, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 48)).save(sink, "JPEG", exif=exif)
    storage.write_bytes(storage.join(bucket, "data/JPEGImages/a.jpg"), sink.getvalue())
    uri = storage.join(bucket, "data/Annotations/a.xml")
    size = f"<size><width>{stated[0]}</width><height>{stated[1]}</height></size>"
    text = storage.read_bytes(uri).decode().replace("<annotation>", f"<annotation>{size}")
    storage.write_bytes(uri, text.encode())


def test_boxes_of_a_photo_that_exif_turns_are_turned_upright(bucket: str) -> None:
    data = storage.join(bucket, "data")
    _write_labels(data, {"a.jpg": [("ring", (10, 0, 30, 20))]})
    _lying_photo(bucket, (64, 48))
    found = {"a.jpg": [("ring", 0.9, (28, 10, 48, 30))]}  # x = 48 - y, y = x
    _write_scored(
        storage.join(bucket, "out"), storage.join(data, "JPEGImages"), found, size=(64, 48)
    )
    result = run(_config(bucket))
    assert result.voc10.ap[0] == 1


def test_another_size_than_the_stated_one_is_reported(
    bucket: str, caplog: pytest.LogCaptureFixture
) -> None:
    data = storage.join(bucket, "data")
    _write_labels(data, {"a.jpg": [("ring", (10, 0, 30, 20))]})
    _lying_photo(bucket, (128, 96))
    found = {"a.jpg": [("ring", 0.9, (10, 0, 30, 20))]}
    _write_scored(
        storage.join(bucket, "out"), storage.join(data, "JPEGImages"), found, size=(64, 48)
    )
    run(_config(bucket))
    assert "states 128 x 96 pixels, but the image has 48 x 64" in caplog.text


def test_a_skipped_label_and_a_renamed_class_are_evaluated(bucket: str) -> None:
    data = storage.join(bucket, "data")
    labels = [("Ring", LEFT), ("Ring", (90, 0, 80, 20))]  # the second ends before it begins
    _write_labels(data, {"a.jpg": labels})
    found = {"a.jpg": [("ring", 0.9, LEFT), ("ring", 0.95, (80, 0, 90, 20))]}
    _write_scored(storage.join(bucket, "out"), storage.join(data, "JPEGImages"), found)
    with pytest.raises(UserError, match="ends before it begins"):
        run(_config(bucket, rename=("Ring=ring",)))
    result = run(_config(bucket, rename=("Ring=ring",), on_bad_label="skip"))
    assert result.voc10.ap[0] == 1


def _job(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(JOB), *flags],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parent,  # not the checkout: the job finds the packages by itself
    )


def test_the_job_prints_the_table_and_exits_with_zero(work: str) -> None:
    done = _job("--scored", f"{work}/out", "--data", f"{work}/data")
    assert done.returncode == 0, done.stderr
    assert "mAP VOC07" in done.stderr
    assert storage.exists(f"{work}/out/evaluation/r1/metrics.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--scored": "{work}/nothing"}, "error: {work}/nothing: names no object"),
        ({"--split": "empty"}, "empty.txt: lists no image"),
        ({"--split": "star"}, "class 'star' in"),
    ],
)
def test_the_job_prints_one_line_of_error_and_exits_with_two(
    work: str, change: dict[str, str], message: str
) -> None:
    _write_labels(f"{work}/data", {"s.jpg": [("star", LEFT)]}, split="star")
    storage.write_bytes(f"{work}/data/ImageSets/Main/empty.txt", b"\n")
    flags = {"--scored": "{work}/out", "--data": "{work}/data"} | change
    done = _job(*(part.format(work=work) for pair in flags.items() for part in pair))
    assert done.returncode == 2, done.stderr
    (line,) = [text for text in done.stderr.splitlines() if text.startswith("error: ")]
    assert message.format(work=work) in line
    assert "Traceback" not in done.stderr


def test_the_job_exits_with_two_for_an_unknown_flag(work: str) -> None:
    done = _job("--scored", f"{work}/out", "--data", f"{work}/data", "--splitt", "test")
    assert done.returncode == 2
    assert "--splitt" in done.stderr
    assert storage.list_objects(f"{work}/out/evaluation", missing_ok=True) == []


def test_the_job_is_executable_and_its_help_shows_the_command() -> None:
    assert os.access(JOB, os.X_OK)
    done = _job("--help")
    assert done.returncode == 0
    assert "ray job submit --working-dir . -- python jobs/evaluate.py" in " ".join(
        done.stdout.split()
    )
    for flag in ("--scored", "--data", "--split", "--run-id", "--dry-run", "--limit", "--classes"):
        assert flag in done.stdout
