"""Runs the commands and the code of the pages, one page after the other, in a folder and a separate bucket.

The words are those of the pages. Trainings are short and of a tiny network, and the bucket has another name.
What a reader has before (images, labels, a model) is made from drawn scenes.
"""

from __future__ import annotations

import io
import json
import re
import shlex
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pytest
from PIL import Image

from pipeline import storage
from pipeline.results.sampled import read_sample
from pipeline.results.suspects_table import read_suspects
from pipeline.runtime.arguments import parse_arguments
from pipeline.runtime.commands import COMMANDS, find, load
from tests.doc_commands import RULES, WALK, walked

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

PAGES = list(dict.fromkeys(rule.page for rule in RULES if rule.test == WALK))
SHORT = {
    "backbone": "tiny",
    "weights": "none",
    "iterations": "4",
    "scale": "96",
    "fc-dim": "16",
    "batch-size": "2",
    "num-workers": "1",
}
"""Flags of a training: replaced where a page gives them, else added."""
VIEW = "CREATE VIEW scored AS FROM read_parquet('results/scored/*/*.parquet', union_by_name = true)"


def run(command: str, bucket: str) -> object:
    """Run a command of a page in this process."""
    command = command.replace("\\\n", " ").replace("s3://bucket/", f"{bucket}/")
    words = shlex.split(command, comments=True)
    if words[:3] == ["ray", "job", "submit"]:  # test_demo.py and test_submit_forms.py submit
        words = words[words.index("--") + 1 :]
    name, flags = (
        (Path(words[1]).stem, words[2:]) if words[0] == "python" else (words[1], words[2:])
    )
    job = find(COMMANDS, name)
    assert job is not None, command
    if name == "train":
        flags = shortened(flags)
    return load(job.run)(parse_arguments(load(job.config), flags, name))


def shortened(flags: list[str]) -> list[str]:
    """Replace or add the flags of SHORT."""
    for name, value in SHORT.items():
        if f"--{name}" in flags:
            flags[flags.index(f"--{name}") + 1] = value
        else:
            flags += [f"--{name}", value]
    return flags


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Path:
    """What a reader has: shapes/ with labels in VOC's layout, inbox/ and a model of them."""
    folder = tmp_path_factory.mktemp("before")
    draw = f"python jobs/draw_scenes.py --output {folder} --train 24 --val 6 --test 6 --score 6"
    run(draw, "")
    run(f"python jobs/train.py --data {folder}/shapes --split train --output {folder}/model", "")
    return folder


def prepare(folder: Path, bucket: str, before: Path) -> None:
    """Give the folder and the bucket of a reader the names that the pages use."""
    for name in ("my-data", "bccd", "images"):
        shutil.copytree(
            before / "shapes" / ("JPEGImages" if name == "images" else ""), folder / name
        )
    for name in ("my-model", "old-model"):
        shutil.copytree(before / "model", folder / name)
    for name, target in (
        ("shapes", "labelled"),
        ("inbox", "inbox"),
        ("inbox", "photos"),
        ("inbox", "survey"),
        ("inbox", "slides"),
        ("model", "model"),
    ):
        storage.upload_folder(before / name, f"{bucket}/{target}")
    pictures = sorted((before / "shapes/JPEGImages").glob("*.jpg"))
    shutil.copy(pictures[0], folder / "survey.jpg")
    lines = [f"{bucket}/inbox/{path.name}" for path in sorted((before / "inbox").iterdir())]
    storage.write_bytes(f"{bucket}/lists/monday.csv", "\n".join(["uri", *lines]).encode())
    storage.write_bytes(f"{bucket}/x.tar", packed({"folder/1.jpg": pictures[0]}))
    storage.write_bytes(f"{bucket}/x.tar.gz", packed({"folder/1.jpg": pictures[0]}, "w:gz"))
    labels = {f"{n:03d}.jpg": path for n, path in enumerate(pictures[:12])}
    xmls = {
        f"{n:03d}.xml": before / "shapes/Annotations" / f"{path.stem}.xml"
        for n, path in enumerate(pictures[:12])
    }
    pairs = {name: {**labels, **xmls}[name] for name in sorted({**labels, **xmls})}
    storage.write_bytes(f"{bucket}/shards/train-000000.tar", packed(pairs))


def packed(files: dict[str, Path], mode: str = "w") -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode=mode) as archive:  # type: ignore[call-overload]
        for name, path in files.items():
            archive.add(path, name)
    return sink.getvalue()


# --- what a page needs besides, by a word of the command that needs it ---------------------------


def counted(bucket: str) -> None:
    """A person counts: one object of the first class in each drawn image."""
    sample = read_sample("round-1")
    uris = dict.fromkeys(sample.rows["image_uri"].to_pylist())
    lines = [f"{uri},{sample.frame.classes[0]},1" for uri in uris]
    Path("counts.csv").write_text("\n".join(["image_uri,label,count", *lines]))


def judged(bucket: str) -> None:
    """A person judges every suspect on the page: the label is wrong."""
    found = read_suspects("suspects")["suspect"].to_pylist()
    answers = {"format_version": 1, "judged": dict.fromkeys(found, True)}
    Path("judged.json").write_text(json.dumps(answers))


def labelled_sample(bucket: str) -> None:
    """A person labels the drawn images: a folder of labels apart from the images."""
    shutil.copytree("my-data/Annotations", "labels/Annotations")
    Path("labels/ImageSets/Main").mkdir(parents=True)
    stems = sorted(path.stem for path in Path("labels/Annotations").iterdir())
    Path("labels/ImageSets/Main/train.txt").write_text("".join(f"{stem}\n" for stem in stems))


def scored(bucket: str) -> None:
    run("python jobs/score_bucket.py --images my-data/JPEGImages --checkpoint my-model"
        " --output results", bucket)  # fmt: skip


def sixteen_bits(bucket: str) -> None:
    """A folder whose images have 16 bits, and results that warn of them."""
    shutil.copytree("my-data", "DATA")
    for path in Path("DATA/JPEGImages").iterdir():
        grey = np.asarray(Image.open(path).convert("L"), np.uint16) * 5 + 29315
        path.unlink()
        Image.fromarray(grey).save(path.with_suffix(".png"))
    shutil.copytree("DATA/JPEGImages", "BUCKET")
    run(
        "python jobs/score_bucket.py --images BUCKET --checkpoint my-model --output results", bucket
    )


def without_outputs(bucket: str) -> None:
    """A page trains into the name of a model that the reader has already."""
    shutil.rmtree("my-model", ignore_errors=True)


def without_model(bucket: str) -> None:
    empty(f"{bucket}/model")


def without_packed(bucket: str) -> None:
    """The example before this one packed something else into the folder."""
    empty(f"{bucket}/packed")


def empty(folder: str) -> None:
    for info in list(storage.list_objects(folder)):
        storage.delete(info.uri)


def without_new_model(bucket: str) -> None:
    shutil.rmtree("new-model")


def put_aside(bucket: str) -> None:
    """A dry run without tiles, before anything is trained."""
    shutil.move("my-model", "trained")


def put_back(bucket: str) -> None:
    shutil.move("trained", "my-model")


NEEDS: dict[tuple[str, str], Callable[[str], None]] = {
    ("docs/counts.md", "jobs/sample.py"): scored,
    ("docs/counts.md", "jobs/estimate.py"): counted,
    ("docs/suspects.md", "--judged"): judged,
    ("docs/scores.md", "--sample round-1"): labelled_sample,
    ("docs/pixels.md", "LIKE"): sixteen_bits,
    ("docs/archives.md", "jobs/train.py"): without_model,
    ("docs/proposals.md", "jobs/train.py"): without_model,
    ("docs/archives.md", "s3://bucket/photos"): without_packed,
    ("docs/scores.md", "old-model"): without_new_model,
    ("docs/tiles.md", "--tile auto"): without_outputs,
    ("docs/tiles.md", "--dry-run"): put_aside,
    ("docs/tiles.md", "Detector"): put_back,
    ("docs/recipe.md", "jobs/train.py"): without_outputs,
    ("README.md", "jobs/train.py"): without_model,
}


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_work_one_after_the_other(
    page: str, before: Path, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    prepare(tmp_path, bucket, before)
    texts = walked(page)
    assert texts
    for text in texts:
        for (needed, word), make in NEEDS.items():
            if needed == page and word in text:
                make(bucket)
        if re.match(r"(python|ray|fastrcnn-ray) ", text):
            run(text, bucket)
        elif re.match(r"(SELECT|--)", text):
            query(text, bucket)
        else:
            names: dict[str, object] = {}
            exec(compile(text.replace("s3://bucket/", f"{bucket}/"), page, "exec"), names)
            assert names.get("data") or "detections" in names


def query(text: str, bucket: str) -> None:
    """Run the queries of a block. Those of archives and of 16 bits find something."""
    with duckdb.connect() as connection:
        if "FROM scored" in text:
            connection.execute(VIEW)
        for one in text.replace("s3://bucket/", f"{bucket}/").split(";\n"):
            rows = connection.execute(one).fetchall()
            assert rows or "matches.parquet" in one, one


def test_each_preparation_is_for_a_command_that_exists() -> None:
    for (page, word), _ in NEEDS.items():
        assert any(word in text for text in walked(page)), (page, word)
