"""Tests of the benchmarks: flags, and the table of proposals on boxes worked out by hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import decode as benchmark_decode
from benchmarks import images as benchmark_images
from benchmarks import proposals as benchmark_proposals
from benchmarks.config import AccuracyConfig, DecodeConfig, ProposalsConfig
from benchmarks.proposals import Measured
from fastrcnn.config import ProposalConfig
from jobs import benchmark
from pipeline.errors import UserError
from pipeline.runtime.arguments import parse_arguments
from pipeline.runtime.commands import find, load

JOB = Path(benchmark.__file__)
CHECKOUT = JOB.parents[1]
GT = np.array([[0, 0, 20, 20], [10, 10, 90, 90]], np.float32)


def task(name: str, *flags: str) -> object:
    command = find(benchmark.TASKS, name)
    assert command is not None
    return parse_arguments(load(command.config), flags, name)


def test_the_job_is_executable_and_its_tasks_accept_flags() -> None:
    assert os.access(JOB, os.X_OK)
    assert task("accuracy", "--data", "bccd", "--weights", "x.pth") == AccuracyConfig(
        data=Path("bccd"), weights="x.pth"
    )
    assert task(
        "proposals", "--data", "a", "b", "--limit", "3", "--no-reference"
    ) == ProposalsConfig(data=("a", "b"), limit=3, reference=False)
    assert task("decode", "--data", "a", "--rounds", "2") == DecodeConfig(data=("a",), rounds=2)


def test_a_proposer_is_read_from_a_name_and_settings() -> None:
    text = "selective_search,mode=small,max_side=400,k=60/150,strategies=CTSF/F"
    assert benchmark_proposals.parse(text) == ProposalConfig(
        mode="small", max_side=400, k=(60, 150), strategies=("CTSF", "F")
    )


@pytest.mark.parametrize("text", ["sliding", "grid,mode", "grid,side=3", "selective_search,mode=x"])
def test_an_unknown_proposer_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--proposers"):
        benchmark_proposals.parse(text)


def test_recall_counts_objects_by_size_and_at_each_cut() -> None:
    near = np.array([[10, 10, 90, 80]], np.float32)  # IoU .875 with the large object
    far = np.zeros((100, 4), np.float32) + (200, 200, 210, 210)
    measured = Measured(boxes=[np.concatenate([far, near])], seconds=[0.02])
    reference = Measured(boxes=[near], seconds=[2.0])
    row = benchmark_proposals.summary("cells", "ours", measured, [GT], reference)
    assert row["times_faster"] == pytest.approx(100)
    assert row["ms"] == pytest.approx(20)
    assert row["at"][100]["r50"] == 0  # the good box is the 101st
    assert row["at"][300] == {
        "r50": 0.5,
        "r70": 0.5,
        "ar": pytest.approx(0.375),  # 2 (.875 - .5) for one of two objects
        "objects": 2,
    }
    assert row["sizes"]["<32"]["r50"] == 0
    assert row["sizes"]["32-96"]["r70"] == 1
    assert row["sizes"][">96"]["objects"] == 0


def test_the_macro_mean_ignores_mosaics() -> None:
    measured = Measured(boxes=[GT], seconds=[0.02])
    rows = [
        benchmark_proposals.summary(name, "ours", measured, [gt], None)
        for name, gt in (("a", GT), ("b", GT + 500), ("mosaic", GT + 500))
    ]
    (mean,) = benchmark_proposals.macro(rows)
    assert mean["at"][2000]["r70"] == 0.5


def test_a_mosaic_shrinks_pictures_and_their_objects() -> None:
    white = np.full((100, 200, 3), 255, np.uint8)
    pairs = [(white * (n == 3), np.array([[0, 0, 200, 100]], np.float32)) for n in range(4)]
    picture, boxes = benchmark_images.mosaic(pairs, 2, (40, 60))
    assert boxes.tolist() == [[0, 0, 30, 20], [30, 0, 60, 20], [0, 20, 30, 40], [30, 20, 60, 40]]
    assert picture[20:, 30:].min() == 255
    assert picture.sum() == picture[20:, 30:].sum()


def test_proposals_writes_a_table_a_plot_and_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "cells" / "test"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for n in range(4):
        Image.fromarray(rng.integers(0, 255, (60, 90, 3), np.uint8)).save(folder / f"{n}.jpg")
        (folder / f"{n}.xml").write_text(
            "<annotation><object><name>cat</name><bndbox><xmin>1</xmin><ymin>1</ymin>"
            "<xmax>90</xmax><ymax>60</ymax></bndbox></object></annotation>"
        )
    benchmark_proposals.run(
        ProposalsConfig(
            data=(str(tmp_path / "cells"),),
            proposers=("grid", "grid,max_boxes=10"),
            mosaic=2,
            output=tmp_path / "out",
        )
    )
    rows = json.loads((tmp_path / "out" / "results.json").read_text())["results"]["rows"]
    assert [(row["data"], row["proposer"]) for row in rows] == [
        (data, proposer)
        for data in ("cells", "mosaic", "macro")
        for proposer in ("opencv-fast", "grid", "grid,max_boxes=10")
    ]
    whole = [row["at"]["100"]["r70"] for row in rows if row["data"] == "cells"]
    assert whole[1:] == [1, 1]  # the grid holds the whole image
    assert (tmp_path / "out" / "recall.png").read_bytes().startswith(b"\x89PNG")
    table = (tmp_path / "out" / "table.txt").read_text()
    assert table in capsys.readouterr().out
    assert "$ / 100M" in table


def test_decode_measures_every_installed_decoder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    picture = Image.effect_noise((90, 60), 40).convert("RGB")
    picture.save(photos / "a.jpg")
    picture.save(photos / "b.JPG", progressive=True)
    picture.convert("CMYK").save(photos / "odd.jpg")
    (photos / "page.jpg").write_bytes(b"<html>")
    (photos / "c.png").write_bytes(b"")
    assert len(list(benchmark_decode.plain_jpegs(str(photos), 10))) == 2
    benchmark_decode.run(DecodeConfig(data=(str(photos),), rounds=1, output=tmp_path / "out"))
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    assert written["machine"]["cpus"] >= 1
    assert written["machine"]["versions"]["torch"] == torch.__version__.partition("+")[0]
    rows = [row for row in written["results"] if "decoder" in row]
    assert {row["decoder"].split()[0] for row in rows} >= {"simplejpeg", "OpenCV", "Pillow"}
    assert {row["images"] for row in rows} == {2}
    assert "of the fastest, " in capsys.readouterr().out
    with pytest.raises(UserError, match="no plain JPEG"):
        benchmark_decode.run(DecodeConfig(data=(str(photos / "odd.jpg"),), output=tmp_path))


@pytest.mark.long
def test_the_servers_of_a_measurement_end_with_it(tmp_path: Path) -> None:
    """The job waits for its S3 server, which SIGTERM must be able to end."""
    command = [sys.executable, "jobs/benchmark.py", "labels", "--boxes", "1000", "--files", "200"]
    command += ["--output", str(tmp_path)]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "XML files on S3" in done.stdout
