"""Suspicious labels of hand-made runs: which rows count, the table, the page, tasks and corrected labels."""

from __future__ import annotations

import builtins
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline import storage
from pipeline.annotations import read_labelled_images
from pipeline.annotations.folds import fold_of
from pipeline.config import EvaluateConfig
from pipeline.config.suspects import SuspectsConfig
from pipeline.errors import UserError
from pipeline.evaluate import run as evaluate
from pipeline.results.suspects_table import read_suspects
from pipeline.suspects import SuspectsSummary, run
from tests.pipeline.scored_runs import image, write_shard

Box = tuple[float, float, float, float]
A: Box = (4, 4, 24, 24)
B: Box = (34, 10, 60, 40)
BESIDE: Box = (14, 4, 34, 24)  # IoU 1/3 with A
SEEDS = 3
NAMES = [f"photo-{k:03d}" for k in range(12)]
SEEN: dict[str, list[tuple[str, float, Box]]] = {
    NAMES[0]: [("cat", 0.9, A), ("dog", 0.8, B)],  # the dog has no label
    NAMES[1]: [("dog", 0.85, A)],  # labelled as a cat
    NAMES[2]: [("cat", 0.9, BESIDE)],  # labelled at A
}
"""What a model sees that was not trained on the image. In the others, it sees the label."""


def write_labels(folder: Path) -> None:
    """A VOC folder whose images all have one cat, at A."""
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / part).mkdir(parents=True)
    x1, y1, x2, y2 = A
    for name in NAMES:
        Image.new("RGB", (64, 48), "grey").save(folder / "JPEGImages" / f"{name}.jpg")
        (folder / "Annotations" / f"{name}.xml").write_text(
            f"<annotation><filename>{name}.jpg</filename><size><width>64</width><height>48</height></size>"
            f"<object><name>cat</name><difficult>0</difficult><bndbox><xmin>{x1 + 1}</xmin>"
            f"<ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object></annotation>"
        )
    (folder / "ImageSets/Main/train.txt").write_text("".join(f"{name}\n" for name in NAMES))


def write_run(folder: Path, fold: int | None, data: Path, *, only: bool = False) -> str:
    """A run of the model of a fold: on images of other folds it repeats their labels.

    Args:
        fold: None: the checkpoint does not say it.
        only: score only the images of the fold.
    """
    rows = []
    for name in NAMES:
        left_out = fold is None or fold_of(f"JPEGImages/{name}.jpg", seed=SEEDS, folds=2) == fold
        boxes = SEEN.get(name) if left_out else None
        uri = str(data / "JPEGImages" / f"{name}.jpg")
        if left_out or not only:
            rows.append(image(uri, *(boxes or [("cat", 0.97, A)]), size=(48, 64), etag=None))
    write_shard(str(folder), *rows, run_id=f"run-{fold}")
    flags = {} if fold is None else {"folds": 2, "fold": fold, "seed": SEEDS}
    checkpoint = {"model": {"calibration": [[1, 0], [1, 0]]}, "training": {"flags": flags}}
    described = {"config": {}, "checkpoint": checkpoint}
    uri = str(folder / "runs" / f"run-{fold}" / "config.json")
    storage.write_bytes(uri, json.dumps(described).encode())
    return str(folder)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_labels(tmp_path / "data")
    return tmp_path / "data"


def search(tmp_path: Path, scored: list[str], data: Path, **flags: Any) -> SuspectsSummary:
    return run(
        SuspectsConfig(
            scored=tuple(scored), data=(str(data),), output=str(tmp_path / "out"), **flags
        )
    )


def both(tmp_path: Path, data: Path) -> list[str]:
    return [write_run(tmp_path / f"fold-{fold}", fold, data) for fold in (1, 2)]


def table(tmp_path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = read_suspects(str(tmp_path / "out")).to_pylist()
    return rows


def test_rows_count_of_the_model_that_was_not_trained_on_the_image(
    tmp_path: Path, data: Path
) -> None:
    summary = search(tmp_path, both(tmp_path, data), data)
    assert summary.suspects == {"missing_label": 1, "bad_box": 1, "wrong_class": 1}
    assert (summary.images, summary.unseen) == (12, 0)
    rows = table(tmp_path)
    assert [row["rank"] for row in rows] == [1, 2, 3]
    by_kind = {row["kind"]: row for row in rows}
    assert by_kind["missing_label"]["found_label"] == "dog"
    assert by_kind["missing_label"]["label"] is None
    assert by_kind["wrong_class"]["label"] == "cat"
    assert by_kind["wrong_class"]["score"] == pytest.approx(0.85, abs=1e-6)
    assert by_kind["bad_box"]["iou"] == pytest.approx(1 / 3, abs=1e-6)
    for name, row in zip(
        NAMES[:3], (by_kind[k] for k in ("missing_label", "wrong_class", "bad_box")), strict=True
    ):
        fold = fold_of(f"JPEGImages/{name}.jpg", seed=SEEDS, folds=2)
        assert row["image_uri"].endswith(f"{name}.jpg")
        assert row["run_id"] == f"run-{fold}"


def test_runs_of_both_folds_may_lie_in_one_folder_and_score_their_fold_alone(
    tmp_path: Path, data: Path
) -> None:
    for fold in (1, 2):
        write_run(tmp_path / "scored", fold, data, only=True)
    summary = search(tmp_path, [str(tmp_path / "scored")], data)
    assert sum(summary.suspects.values()) == 3


def test_images_without_such_a_row_are_counted(
    tmp_path: Path, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    summary = search(tmp_path, both(tmp_path, data)[:1], data)
    assert summary.images + summary.unseen == 12
    assert 0 < summary.unseen < 12
    assert f"{summary.unseen} of 12 labelled images are left out" in caplog.text


def test_a_model_that_does_not_say_what_it_saw_is_taken_with_a_warning(
    tmp_path: Path, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scored = write_run(tmp_path / "any", None, data)
    assert sum(search(tmp_path, [scored], data).suspects.values()) == 3
    assert "does not say which images it was not trained on" in caplog.text
    other = write_run(tmp_path / "fold-1", 1, data)
    with pytest.raises(UserError, match="was scored in run run-None and in run run-1"):
        search(tmp_path, [scored, other], data)


def test_rows_of_trained_models_alone_are_refused(tmp_path: Path, data: Path) -> None:
    scored = write_run(tmp_path / "fold-1", 1, data)
    kept = [name for name in NAMES if fold_of(f"JPEGImages/{name}.jpg", seed=SEEDS, folds=2) == 2]
    listed = tmp_path / "kept.txt"
    listed.write_text("".join(f"JPEGImages/{name}.jpg\n" for name in kept))
    with pytest.raises(UserError, match="no row of a model that was not trained on the image"):
        search(tmp_path, [scored], data, split=str(listed))


def test_the_page_shows_a_crop_of_each_and_runs_only_its_script(tmp_path: Path, data: Path) -> None:
    search(tmp_path, both(tmp_path, data), data)
    page = (tmp_path / "out/suspects.html").read_text()
    assert page.count("<li data-suspect=") == 3
    assert page.count("data:image/jpeg;base64,") == 3
    assert "default-src 'none'" in page
    assert re.search(r"""(?:src|href)="(?!data:)""", page) is None
    assert "Is dog here, without a label?" in page
    assert "Is this dog, and not cat?" in page


def test_hostile_names_are_text_on_the_page(tmp_path: Path) -> None:
    from pipeline.results.suspects_page import suspects_page

    hostile = "<script>alert(1)</script>\"'"
    row = {
        "rank": 1, "suspect": hostile, "kind": "wrong_class", "score": 0.5, "image_uri": hostile,
        "label": hostile, "found_label": hostile, "found_score": 0.5, "iou": 0.6, "cleanlab": None,
    }  # fmt: skip
    page = suspects_page(
        [row], [None], source=hostile, counts={"wrong_class": 1}, warnings=[hostile]
    ).decode()
    assert "<script>alert" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#x27;") == 6


def test_a_crop_shows_the_boxes_and_what_is_around_them() -> None:
    from pipeline.results.suspects_page import frame_of

    edges = ("x_min", "y_min", "x_max", "y_max")
    row = dict(zip((f"found_{edge}" for edge in edges), (100, 100, 200, 150), strict=True))
    row |= dict(zip(edges, (150, 90, 220, 160), strict=True))
    # Both boxes: 100, 90 to 220, 160. Margin: .6 of 120.
    assert frame_of(row, (1000, 1000)) == (28, 18, 293, 233)
    assert frame_of(row, (200, 210)) == (28, 18, 210, 200)


def test_tasks_come_back_through_the_label_reader(tmp_path: Path, data: Path) -> None:
    search(tmp_path, both(tmp_path, data), data, image_root="/images")
    tasks = tmp_path / "out" / "tasks"
    images_at = str(data / "JPEGImages")
    yolo = read_labelled_images(str(tasks / "yolo"), "train", images_at=images_at)
    with_suspects = [
        one for one in yolo.images if storage.basename(one.image_uri)[:-4] in NAMES[:3]
    ]
    assert [one.gt_boxes.tolist() for one in with_suspects] == [[pytest.approx(A, abs=0.01)]] * 3
    coco = read_labelled_images(str(tasks / "cvat/annotations.json"), "train", images_at=images_at)
    assert [one.gt_boxes.tolist() for one in coco.images] == [[pytest.approx(A)]] * 3
    (first, *_) = json.loads((tasks / "labelstudio/tasks.json").read_text())
    assert first["data"]["image"].startswith("/images/photo-")
    before, after = (prediction["result"] for prediction in first["predictions"])
    assert (len(before), len(after)) == (1, 2)
    assert before[0]["value"]["x"] == pytest.approx(100 * A[0] / 64)


def test_what_was_judged_wrong_is_corrected(tmp_path: Path, data: Path) -> None:
    scored = both(tmp_path, data)
    search(tmp_path, scored, data)
    rows = table(tmp_path)
    judged = {row["suspect"]: row["kind"] != "bad_box" for row in rows}
    file = tmp_path / "judged.json"
    file.write_text(json.dumps({"format_version": 1, "judged": judged}))
    assert search(tmp_path, scored, data, judged=str(file)).changed == 2
    again = read_labelled_images(str(tmp_path / "out/corrected"), "train", images_at=str(data))
    labels = {
        storage.basename(one.image_uri)[:-4]: [
            (again.classes[label - 1], *box)
            for label, box in zip(one.gt_labels.tolist(), one.gt_boxes.tolist(), strict=True)
        ]
        for one in again.images
    }
    assert sorted(labels) == NAMES
    assert labels[NAMES[0]] == [("cat", *A), ("dog", *B)]
    assert labels[NAMES[1]] == [("dog", *A)]
    assert labels[NAMES[2]] == [("cat", *A)]  # judged right
    assert labels[NAMES[5]] == [("cat", *A)]
    file.write_text(json.dumps({"judged": {"0123456789ab": True}}))
    with pytest.raises(UserError, match="1 suspects that are not in the table"):
        search(tmp_path, scored, data, judged=str(file))
    file.write_text("{}")
    with pytest.raises(UserError, match="not a file of the page"):
        search(tmp_path, scored, data, judged=str(file))


def test_evaluate_says_what_ap_would_be_and_keeps_what_it_is(
    tmp_path: Path, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    search(tmp_path, both(tmp_path, data), data)
    scored = write_run(tmp_path / "any", None, data)
    flags = {"scored": scored, "data": (str(data),), "split": "train"}
    plain = evaluate(EvaluateConfig(**flags, output=str(tmp_path / "plain")))
    result = evaluate(
        EvaluateConfig(**flags, output=str(tmp_path / "if"), suspects=str(tmp_path / "out"))
    )
    assert result.voc10.mean_ap == plain.voc10.mean_ap
    assert result.if_right is not None
    assert result.if_right.voc10 == pytest.approx(1)
    assert result.if_right.applied == {"bad_box": 1, "missing_label": 1, "wrong_class": 1}
    assert "a guess, not a measurement" in caplog.text
    written = json.loads((tmp_path / "if/metrics.json").read_text())
    assert written["if_suspects_are_right"]["first"] == 3
    assert "guess" in written["if_suspects_are_right"]["note"]
    before = json.loads((tmp_path / "plain/metrics.json").read_text())
    assert "if_suspects_are_right" not in before
    assert before["voc10"] == written["voc10"]
    one = evaluate(
        EvaluateConfig(
            **flags, output=str(tmp_path / "if"), suspects=str(tmp_path / "out"), first=1
        )
    )
    assert one.if_right is not None
    assert sum(one.if_right.applied.values()) == 1


def test_without_cleanlab_the_flag_says_what_to_install(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def refused(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("cleanlab"):
            raise ImportError("No module named 'cleanlab'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refused)
    with pytest.raises(UserError, match=r"fastrcnn-ray\[cleanlab\]"):
        search(tmp_path, both(tmp_path, data), data, cleanlab=True)


def test_cleanlab_gives_a_second_opinion(tmp_path: Path, data: Path) -> None:
    pytest.importorskip("cleanlab")
    search(tmp_path, both(tmp_path, data), data, cleanlab=True)
    scores = {row["kind"]: row["cleanlab"] for row in table(tmp_path)}
    assert all(score is not None and 0 <= score <= 1 for score in scores.values())


def test_a_dry_run_writes_nothing(tmp_path: Path, data: Path) -> None:
    summary = search(tmp_path, both(tmp_path, data), data, dry_run=True)
    assert sum(summary.suspects.values()) == 3
    assert not (tmp_path / "out").exists()


def test_everything_may_lie_in_a_bucket(bucket: str, tmp_path: Path, data: Path) -> None:
    storage.upload_folder(data, f"{bucket}/data")
    rows = [
        image(f"{bucket}/data/JPEGImages/{name}.jpg", *SEEN.get(name, [("cat", 0.97, A)]),
              size=(48, 64), etag=None)
        for name in NAMES
    ]  # fmt: skip
    write_shard(bucket, *rows)
    config = SuspectsConfig(scored=(bucket,), data=(f"{bucket}/data",), output=f"{bucket}/out")
    assert sum(run(config).suspects.values()) == 3
    page = storage.read_bytes(f"{bucket}/out/suspects.html")
    assert page.count(b"data:image/jpeg;base64,") == 3
    crop = np.asarray(Image.open(io.BytesIO(b64(page))))
    assert abs(crop.mean() - 128) < 3


def b64(page: bytes) -> bytes:
    import base64

    found = re.search(rb"data:image/jpeg;base64,([^\"]+)", page)
    assert found is not None
    return base64.b64decode(found[1])


def test_flag_errors_exit_with_2_and_one_line() -> None:
    job = Path(__file__).resolve().parents[2] / "jobs" / "suspects.py"
    done = subprocess.run(
        [sys.executable, job, "--scored", "x", "--data", "y", "--output", "z", "--min-score", "2"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "expected a score from 0 to 1" in done.stderr
    assert done.stderr.count("\n") == 1


def test_two_images_of_one_stem_cost_only_the_tasks_that_cannot_hold_both(
    tmp_path: Path, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """YOLO has one label file for x.jpg and x.png. The table, the page and the other tasks are written."""
    described: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    rows = []
    for number, name in enumerate(("x.jpg", "x.png"), 1):
        uri = str(data / "JPEGImages" / name)
        Image.new("RGB", (64, 48), "grey").save(uri)
        described["images"].append({"id": number, "file_name": name, "width": 64, "height": 48})
        rows.append(image(uri, ("cat", 0.9, A), size=(48, 64), etag=None))
    (tmp_path / "labels.json").write_text(json.dumps(described))
    write_shard(str(tmp_path / "scored"), *rows)
    found = run(
        SuspectsConfig(
            scored=(str(tmp_path / "scored"),),
            annotations=str(tmp_path / "labels.json"),
            images_at=str(data / "JPEGImages"),
            output=str(tmp_path / "out"),
        )
    )
    assert found.suspects["missing_label"] == 2
    assert "tasks/yolo is left out" in caplog.text
    assert sorted(path.name for path in (tmp_path / "out/tasks").iterdir()) == [
        "cvat",
        "labelstudio",
    ]


def test_two_data_sets_are_corrected_together_and_other_classes_stay(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Images of one name in two sets stay apart; an object that no detector knows is in no task lost."""
    sets = [tmp_path / "sets" / name for name in ("a", "b")]
    rows = []
    for folder in sets:
        write_labels(folder)
        file = folder / "Annotations" / f"{NAMES[0]}.xml"
        fox = (
            file.read_text()
            .split("<object>")[1]
            .replace("cat", "fox")
            .replace("<xmin>5", "<xmin>1")
        )
        fox = fox.replace("<difficult>0", "<difficult>1").removesuffix("</annotation>")
        file.write_text(file.read_text().replace("</annotation>", f"<object>{fox}</annotation>"))
        for name in NAMES:
            uri = str(folder / "JPEGImages" / f"{name}.jpg")
            seen = SEEN[name] if name == NAMES[0] and folder == sets[0] else [("cat", 0.9, A)]
            rows.append(image(uri, *seen, size=(48, 64), etag=None))
    write_shard(str(tmp_path / "scored"), *rows)
    config: dict[str, Any] = {
        "scored": (str(tmp_path / "scored"),),
        "data": tuple(map(str, sets)),
        "output": str(tmp_path / "out"),
    }
    run(SuspectsConfig(**config))
    (one,) = [row for row in table(tmp_path) if row["score"] > 0.5]
    (tmp_path / "judged.json").write_text(json.dumps({"judged": {one["suspect"]: True}}))
    assert run(SuspectsConfig(**config, judged=str(tmp_path / "judged.json"))).changed == 1
    again = read_labelled_images(
        str(tmp_path / "out/corrected"), "train", images_at=str(tmp_path / "sets")
    )
    assert len(again.images) == 2 * len(NAMES)
    labels = {
        one.image_uri.removeprefix(f"{tmp_path}/sets/"): sorted(
            again.classes[k - 1] for k in one.gt_labels.tolist()
        )
        for one in again.images
    }
    assert labels[f"a/JPEGImages/{NAMES[0]}.jpg"] == ["cat", "dog", "fox"]
    assert labels[f"b/JPEGImages/{NAMES[0]}.jpg"] == ["cat", "fox"]
    (task,) = json.loads((tmp_path / "out/tasks/labelstudio/tasks.json").read_text())
    found = [
        sorted(r["value"]["rectanglelabels"][0] for r in p["result"]) for p in task["predictions"]
    ]
    assert found == [["cat", "fox"], ["cat", "dog", "fox"]]
    assert "1 difficult or crowded objects are plain boxes" in caplog.text
