from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from demo.next_steps import next_steps
from demo.processes import descendants
from demo.results import QUERIES, answer, connect, draw_results
from pipeline import storage
from pipeline.draw_scenes import jpeg_bytes
from pipeline.runtime.arguments import parse_arguments
from pipeline.runtime.commands import COMMANDS, find, load
from pipeline.schema import SCORED, encode_parquet, scored_metadata

CHECKOUT = Path(__file__).resolve().parents[2]
DEMO = (sys.executable, "jobs/demo.py")
SMALL = "--train 16 --val 2 --test 4 --score 10 --iterations 4 --expected-map 0".split()


def box(label: str, score: float, x_max: float = 10, y_max: float = 10) -> dict[str, Any]:
    label_id = ("circle", "cross", "ring").index(label) + 1
    corners = {"x_min": 0.0, "y_min": 0.0, "x_max": x_max, "y_max": y_max}
    return {"label": label, "label_id": label_id, "score": score, **corners}


def row(uri: str, detections: list[dict[str, Any]] | None, **columns: Any) -> dict[str, Any]:
    base = dict.fromkeys(SCORED.names) | {
        "image_uri": uri,
        "status": "ok",
        "width": 40,
        "height": 50,
        "detections": detections,
    }
    return base | columns


@pytest.fixture
def results(bucket: str) -> str:
    """Two shards in a bucket; one of them has no box."""
    pixels = np.full((50, 40, 3), 200, dtype=np.uint8)
    for name in ("a", "b", "c"):
        storage.write_bytes(f"{bucket}/inbox/{name}.jpg", jpeg_bytes(pixels))
    shards = {
        "000": [
            row(f"{bucket}/inbox/a.jpg", [box("ring", 0.9, 20, 25), box("cross", 0.75)]),
            row(f"{bucket}/inbox/b.jpg", [box("ring", 0.5), box("ring", 0.4), box("cross", 0.1)]),
        ],
        "001": [
            row(f"{bucket}/inbox/c.jpg", []),
            row(f"{bucket}/inbox/d.jpg", None, status="undecodable", error="not an image"),
        ],
    }
    for shard, rows in shards.items():
        table = pa.Table.from_pylist(rows, schema=SCORED)
        data = encode_parquet(table, metadata=scored_metadata(("circle", "cross", "ring"), "0123"))
        storage.write_bytes(f"{bucket}/results/scored/run/{shard}.parquet", data)
    return f"{bucket}/results"


def test_the_queries_give_the_answers_worked_out_by_hand(results: str) -> None:
    connection = connect()
    answers = [
        connection.sql(query.format(scored=f"{results}/scored/**/*.parquet")).fetchall()
        for query in QUERIES.values()
    ]
    assert answers == [
        [("ok", 3, None), ("undecodable", 1, "not an image")],
        [("ring", 2, 2, 0.7), ("cross", 1, 1, 0.75)],  # boxes with a score of at least .5
        [("a.jpg", 2, 30.0)],  # (20 * 25 + 10 * 10) / (40 * 50); b.jpg's cross is below .5
    ]


def test_an_answer_is_printed_as_a_table(results: str) -> None:
    query = next(iter(QUERIES.values())).format(scored=f"{results}/scored/**/*.parquet")
    text = answer(connect(), query)
    assert re.search(r"undecodable\s*│\s*1\s*│\s*not an image", text)


def test_pictures_show_the_images_with_status_ok(results: str, tmp_path: Path) -> None:
    assert draw_results(results, tmp_path / "boxes.png") == 3  # as PNG, which keeps colours
    with Image.open(tmp_path / "boxes.png") as picture:
        sheet = np.asarray(picture)
    assert sheet.shape[2] == 3
    assert (sheet == (0, 158, 115)).all(axis=2).any()  # the ring's colour: label 3


def test_the_picture_of_the_readme_is_small() -> None:
    path = CHECKOUT / "docs/images/demo.jpg"
    assert path.stat().st_size < 150_000
    with Image.open(path) as picture:
        assert picture.width == 1230  # four cells of 300 pixels


def test_the_commands_at_the_end_name_what_the_demo_leaves(tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox" / "a b.jpg").touch()
    commands = next_steps(tmp_path)
    assert len(commands) == 4
    for command in commands.values():
        words = shlex.split(command)
        assert words[0] == "python"
        if words[1].startswith("jobs/"):
            job = find(COMMANDS, Path(words[1]).stem)
            assert job is not None
            assert parse_arguments(load(job.config), words[2:], job.name) is not None
        else:
            compile(words[2], "command", "exec")


def test_an_interrupted_demo_leaves_no_process(tmp_path: Path) -> None:
    with subprocess.Popen(
        [*DEMO, "--output", tmp_path, *SMALL], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True
    ) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if "Running entrypoint for job" in line:  # the training job runs on the cluster now
                break
        time.sleep(2)
        family = descendants(demo.pid)
        demo.send_signal(signal.SIGINT)
        rest = demo.stdout.read()
    assert demo.returncode == 128 + signal.SIGINT, rest
    assert len(family) > 10  # Ray's servers, the S3 server, the job
    assert [pid for pid, _ in family if is_running(pid)] == []


def is_running(pid: int) -> bool:
    """Return True if a process runs. A zombie does not run."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_the_demo_runs_end_to_end(tmp_path: Path) -> None:
    done = subprocess.run(
        [*DEMO, "--output", tmp_path, *SMALL],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert re.search(r"mAP \(VOC07, 4 test images\): [01]\.\d{3}\n", done.stdout)
    assert re.search(r"\bok\s*│\s*9\s*│", done.stdout)  # ten files, one of them broken
    with Image.open(tmp_path / "boxes.jpg") as sheet:
        assert sheet.size[0] > 1000
    page = (tmp_path / "report.html").read_text()
    assert '"evaluation":{' in page
    assert page.count('"truth":') >= 4
    assert (tmp_path / "model" / "model.safetensors").stat().st_size > 0
    assert len(list((tmp_path / "inbox").iterdir())) == 10
    for title, command in next_steps(tmp_path).items():
        assert f"{title}:" in done.stdout
        assert command in done.stdout
        words = shlex.split(command)
        tried = subprocess.run(
            [sys.executable, *words[1:]],
            cwd=CHECKOUT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert tried.returncode == 0, (command, tried.stdout)
    assert (tmp_path / "again" / "report.html").stat().st_size > 10_000
    assert len(list((tmp_path / "results" / "scored").glob("*/*.parquet"))) == 1
    assert "Traceback" not in done.stdout
