"""Samples and counts of images with odd names, in archives, and of classes with odd names."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline import estimate, sample, storage
from pipeline.config import EstimateConfig, SampleConfig
from pipeline.errors import UserError
from pipeline.results.sampled import Sample
from tests.pipeline.scored_runs import image, write_shard

BOX = (0.0, 0.0, 64.0, 48.0)


def draw(folder: Path, *rows: dict[str, Any], classes: tuple[str, ...], **flags: Any) -> Sample:
    write_shard(str(folder), *rows, classes=classes)
    given: dict[str, Any] = {"budget": 100, "seed": 1} | flags
    return sample.run(SampleConfig(scored=str(folder), output=f"{folder}/s", **given))


def measure(folder: Path, text: str, **flags: Any) -> list[dict[str, Any]]:
    storage.write_bytes(f"{folder}/counts.csv", text.encode())
    config = EstimateConfig(
        scored=str(folder),
        sample=(f"{folder}/s",),
        counts=(f"{folder}/counts.csv",),
        output=f"{folder}/e",
        **flags,
    )
    return estimate.run(config).rows.to_pylist()


def test_prefixes_of_packed_images_are_archives_and_their_folders(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An archive counts as a folder: `--by 1` gives a stratum an archive, not one an image."""
    members = [
        f"{kind}://{name}::s3://b/in/{archive}"
        for kind, archive, names in (
            ("tar", "a.tar", [f"x/{n}.jpg" for n in range(30)]),
            ("zip", "b.zip", [f"{n}.jpg" for n in range(30)]),
            ("parquet", "c.parquet", [str(n) for n in range(30)]),
        )
        for name in names
    ]
    rows = [image(one, ("cat", 0.5, BOX), classes=("cat",)) for one in members]
    drawn = draw(tmp_path, *rows, classes=("cat",), by=1)
    frame = drawn.frame
    assert frame.root == "s3://b/in/"
    assert frame.prefixes == ("s3://b/in/a.tar/", "s3://b/in/b.zip/", "s3://b/in/c.parquet/")
    assert frame.images == (30, 30, 30)
    lines = ["image_uri,label,count", *(f"{one},cat,1" for one in members)]
    found = measure(tmp_path, "\n".join(lines), by=2)
    assert [row["prefix"] for row in found] == [
        "s3://b/in/",
        "s3://b/in/a.tar/x/",
        "s3://b/in/b.zip/",
        "s3://b/in/c.parquet/",
    ]
    assert sum(row["images"] for row in found[1:]) == 90
    assert "Labelling tools cannot open these" in caplog.text


def test_unpacked_images_are_named_below_the_image_root(tmp_path: Path) -> None:
    rows = [
        image(f"tar://x/{n}.jpg::s3://b/in/{a}.tar", classes=("cat",)) for n in (1, 2) for a in "ab"
    ]
    draw(tmp_path, *rows, classes=("cat",), image_root="https://pictures.example")
    lines = (tmp_path / "s/tasks/cvat/images.txt").read_text().splitlines()
    assert sorted(lines) == [
        f"https://pictures.example/{a}.tar/x/{n}.jpg" for a in "ab" for n in (1, 2)
    ]


@pytest.mark.parametrize("label", ["NA", "null", "nan", 'a,"b"', "é😀", "1"])
def test_a_class_may_have_any_name(tmp_path: Path, label: str) -> None:
    """A table of counts takes only an empty cell for no class."""
    rows = [image(f"s3://b/in/{n}.jpg", (label, 0.5, BOX), classes=(label,)) for n in range(4)]
    draw(tmp_path, *rows, classes=(label,))
    cell = '"' + label.replace('"', '""') + '"'
    lines = ["image_uri,label,count", *(f"{n}.jpg,{cell},2" for n in range(4))]
    for text in ("\n".join(lines), "\r\n".join(lines), "\ufeff" + "\n".join(lines)):
        (row,) = measure(tmp_path, text)
        assert (row["label"], row["total"], row["low"], row["high"]) == (label, 8, 8, 8)


def test_names_with_line_breaks_are_left_out_of_files_with_a_name_a_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    rows = [image(f"s3://b/in/{n}\n.jpg", classes=("cat",)) for n in range(3)]
    draw(tmp_path, *rows, classes=("cat",))
    assert [path.name for path in (tmp_path / "s/tasks").iterdir()] == ["labelstudio"]
    assert "they hold a name a line" in caplog.text
    text = 'image_uri,label,count\n"' + '",cat,1\n"'.join(r["image_uri"] for r in rows) + '",cat,1'
    assert measure(tmp_path, text)[0]["total"] == 3


def test_images_with_as_many_boxes_as_the_run_gives_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A detector that stops at 3 boxes expects far too little in a crowd."""
    model = {"detections_per_image": 3, "tile": None}
    described = {"config": {"max_detections": None}, "checkpoint": {"model": model}}
    storage.write_bytes(f"{tmp_path}/runs/r1/config.json", json.dumps(described).encode())
    found = [("cat", 0.5, BOX)]
    rows = [
        image(f"s3://b/in/{k}.jpg", *(found * n), classes=("cat",))
        for k, n in enumerate((1, 2, 3, 3))
    ]
    draw(tmp_path, *rows, classes=("cat",), dry_run=True)
    assert "2 images have 3 boxes, the most that this run gives" in caplog.text
    caplog.clear()
    unsure = [*found, *found, ("cat", 0.05, BOX)]  # what follows has scores below .05
    for k in (2, 3):
        rows[k] = image(f"s3://b/in/{k}.jpg", *unsure, classes=("cat",))
    draw(tmp_path, *rows, classes=("cat",), dry_run=True)
    assert "the most that this run gives" not in caplog.text
    for k in (2, 3):
        rows[k] = image(f"s3://b/in/{k}.jpg", *(found * 3), classes=("cat",))
    described["config"] = {"max_detections": 5}
    storage.write_bytes(f"{tmp_path}/runs/r1/config.json", json.dumps(described).encode())
    draw(tmp_path, *rows, classes=("cat",), dry_run=True)
    assert "the most that this run gives" not in caplog.text


def write_xml(folder: Path, names: list[str], objects: str) -> None:
    """A folder with LabelImg files beside its images."""
    folder.mkdir()
    for name in names:
        Image.new("RGB", (64, 48)).save(folder / f"{name}.jpg")
        size = "<size><width>64</width><height>48</height></size>"
        (folder / f"{name}.xml").write_text(f"<annotation>{size}{objects}</annotation>")


def test_labels_without_any_object_are_counts_of_zero(tmp_path: Path) -> None:
    """A rare class: a person finds it in no drawn image, and the tool writes files without boxes."""
    rows = [image(f"s3://b/in/{n}.jpg", ("cat", 0.1, BOX), classes=("cat",)) for n in range(40)]
    drawn = draw(tmp_path, *rows, classes=("cat",), budget=20)
    names = {uri[10:-4] for uri in drawn.rows["image_uri"].to_pylist()}
    write_xml(tmp_path / "labels", sorted(names), "")
    config = EstimateConfig(
        scored=str(tmp_path),
        sample=(f"{tmp_path}/s",),
        counts=(f"{tmp_path}/labels",),
        output=f"{tmp_path}/e",
    )
    (row,) = estimate.run(config).rows.to_pylist()
    assert (row["total"], row["low"]) == (0, 0)
    assert row["high"] > 0


def test_a_label_that_cannot_be_right_is_refused_with_advice_for_this_job(tmp_path: Path) -> None:
    rows = [image(f"s3://b/in/{n}.jpg", ("cat", 0.1, BOX), classes=("cat",)) for n in range(3)]
    draw(tmp_path, *rows, classes=("cat",))
    wrong = (
        "<object><name>cat</name><bndbox><xmin>30</xmin><ymin>1</ymin><xmax>9</xmax><ymax>20</ymax>"
        "</bndbox></object>"
    )
    write_xml(tmp_path / "labels", ["0", "1", "2"], wrong)
    config = EstimateConfig(
        scored=str(tmp_path),
        sample=(f"{tmp_path}/s",),
        counts=(f"{tmp_path}/labels",),
        output=f"{tmp_path}/e",
    )
    with pytest.raises(UserError, match="every object must count") as refused:
        estimate.run(config)
    assert "--on-bad-label" not in str(refused.value)
