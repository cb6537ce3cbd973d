"""Samples of hand-made runs, and estimates from counts of them."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import estimate, sample, storage
from pipeline.config import EstimateConfig, SampleConfig
from pipeline.errors import UserError
from pipeline.results.sampled import Sample, read_sample
from tests.pipeline.scored_runs import image, write_shard

BOX = (0.0, 0.0, 64.0, 48.0)
ROOT = "s3://b/in/"


def objects(number: int) -> dict[str, int]:
    """What is in image `number`: every tenth has cats, every fiftieth a dog too."""
    return {"cat": number % 3 + 1 if number % 10 == 0 else 0, "dog": int(number % 50 == 0)}


def uri(number: int) -> str:
    return f"{ROOT}{'abc'[number % 3]}/{number // 3 % 2}/{number:04d}.jpg"


def row(number: int, **facts: Any) -> dict[str, Any]:
    """The row of an image whose objects the detector sees, but those of every seventh."""
    seen = {} if number % 7 == 0 else objects(number)
    boxes = [(name, 0.75, BOX) for name, count in seen.items() for _ in range(count)]
    return image(uri(number), *boxes, **facts)


@pytest.fixture
def scored(tmp_path: Path) -> str:
    return write_run(str(tmp_path))


def write_run(output: str) -> str:
    """600 images in two shards; image 0 was scored again; two more were not looked at."""
    write_shard(output, *map(row, range(300)))
    write_shard(output, *map(row, range(300, 600)), shard=1)
    bad = [image(f"{ROOT}c/0/{n}.jpg", status="denied", error="no") for n in (1, 2)]
    again = image(uri(0), ("cat", 0.5, BOX), generation=2)
    write_shard(output, *bad, again, shard=2)
    return output


def test_everything_may_lie_in_a_bucket(bucket: str) -> None:
    write_run(bucket)
    rows = measure(bucket, count(bucket, draw(bucket)))
    assert rows[0]["low"] <= rows[0]["total"] <= rows[0]["high"]
    names = ("estimates.parquet", "estimates.json", "estimates.html")
    assert all(storage.exists(f"{bucket}/e/{name}") for name in names)


def draw(scored: str, name: str = "s", **flags: Any) -> Sample:
    given = {"budget": 200, "seed": 1} | flags
    return sample.run(SampleConfig(scored=scored, output=f"{scored}/{name}", **given))


def count(scored: str, drawn: Sample, name: str = "counts.csv") -> str:
    """Count the drawn images as a person would, in a table; its URI."""
    lines = ["image_uri,label,count"]
    for one in dict.fromkeys(drawn.rows["image_uri"].to_pylist()):
        number = int(one[-8:-4])
        present = {label: n for label, n in objects(number).items() if n}
        lines += [f"{one},{label},{n}" for label, n in present.items()] or [f"{one},,0"]
    storage.write_bytes(f"{scored}/{name}", "\n".join(lines).encode())
    return f"{scored}/{name}"


def measure(scored: str, counts: str | tuple[str, ...], **flags: Any) -> list[dict[str, Any]]:
    given: dict[str, Any] = {"sample": f"{scored}/s", "output": f"{scored}/e"} | flags
    return estimate.run(EstimateConfig(scored=scored, counts=counts, **given)).rows.to_pylist()


def test_a_sample_says_what_was_drawn_and_how(scored: str) -> None:
    draw(scored)
    table = pq.read_table(pa.BufferReader(storage.read_bytes(f"{scored}/s/sample.parquet")))
    assert table.column_names == ["draw", "image_uri", "etag", "probability", "stratum"]
    assert table["draw"].to_pylist() == list(range(200))
    assert table.schema.metadata[b"run_id"] == b"r1"
    assert b"plan_sha256" in table.schema.metadata
    drawn = dict(zip(table["image_uri"].to_pylist(), table["probability"].to_pylist(), strict=True))
    assert not any("/c/0/1.jpg" in one or "/c/0/2.jpg" in one for one in drawn)
    # Cats and dogs expected in numbers 10 and 11: one with 2 cats, one with nothing.
    assert drawn.get(uri(10), 0.0) > 10 * min(drawn.values())


def test_probabilities_sum_to_one_over_all_images(scored: str) -> None:
    """With fifty thousand draws, all 600 images are drawn, each with its probability."""
    drawn = draw(scored, budget=50_000, by=1)
    rows = drawn.rows.to_pylist()
    probabilities = {one["image_uri"]: one["probability"] for one in rows}
    assert len(probabilities) == 600
    assert sum(probabilities.values()) == pytest.approx(1)


def test_the_newest_row_of_an_image_counts(scored: str) -> None:
    frame = draw(scored).frame
    cats = sum(objects(n)["cat"] for n in range(600) if n % 7) * 0.75 + 0.5
    assert np.array(frame.expected).sum(0)[0] == pytest.approx(cats)
    assert (sum(frame.images), sum(frame.others)) == (600, 2)


def test_tasks_are_blind_and_name_each_image_once(scored: str) -> None:
    drawn = draw(scored, image_root="https://pictures.example/x")
    distinct = set(drawn.rows["image_uri"].to_pylist())
    for name in ("labelstudio/tasks.json", "cvat/images.txt", "yolo/images.txt"):
        text = storage.read_bytes(f"{scored}/s/tasks/{name}").decode()
        assert text.count(".jpg") == len(distinct)
        assert text.count("https://pictures.example/x/") == len(distinct)
        assert "0.75" not in text
        assert "predictions" not in text
    labels = json.loads(storage.read_bytes(f"{scored}/s/tasks/cvat/labels.json"))
    assert [one["name"] for one in labels] == ["cat", "dog"]


def test_the_same_command_draws_the_same_and_another_seed_is_refused_there(scored: str) -> None:
    assert draw(scored).rows.equals(draw(scored).rows)
    with pytest.raises(UserError, match="holds another sample"):
        draw(scored, seed=2)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"budget": 5, "by": 1}, "3 prefixes need two draws each. Give --budget 6"),
        ({"classes": ("cow",)}, "no class 'cow'. Its classes are: cat, dog"),
    ],
)
def test_what_cannot_be_drawn_is_refused(scored: str, flags: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        draw(scored, **flags)


def test_totals_are_those_of_the_formula_and_cover_the_truth(scored: str) -> None:
    drawn = draw(scored)
    rows = measure(scored, count(scored, drawn))
    assert [(one["scope"], one["label"]) for one in rows] == [
        ("total", None), ("total", "cat"), ("total", "dog"),
    ]  # fmt: skip
    for one in rows:
        names = [one["label"]] if one["label"] else ["cat", "dog"]
        truth = sum(objects(n)[name] for n in range(600) for name in names)
        terms = [
            sum(objects(int(each["image_uri"][-8:-4]))[name] for name in names)
            / each["probability"]
            for each in drawn.rows.to_pylist()
        ]
        assert one["total"] == pytest.approx(np.mean(terms))
        assert one["standard_error"] == pytest.approx(np.std(terms, ddof=1) / np.sqrt(200))
        assert one["low"] <= truth <= one["high"]
        assert one["low"] <= one["total"] <= one["high"]
        assert one["uncovered"] == pytest.approx(2 / 602)
        assert one["images"] == 600


@pytest.mark.parametrize("drawn_by", [0, 1, 2])
@pytest.mark.parametrize("by", [0, 1, 2])
def test_prefixes_may_be_larger_or_smaller_than_the_strata(
    scored: str, drawn_by: int, by: int
) -> None:
    drawn = draw(scored, by=drawn_by, budget=400, seed=3)
    rows = measure(scored, count(scored, drawn), by=by)
    cats = [one for one in rows if one["label"] == "cat"]
    assert len(cats) == {0: 1, 1: 4, 2: 7}[by]
    for one in cats:
        inside = [n for n in range(600) if uri(n).startswith(one["prefix"])]
        assert one["images"] == len(inside)
        # One of seven intervals of 95% may miss; two standard errors further out, none does.
        truth, error = sum(objects(n)["cat"] for n in inside), 2 * one["standard_error"]
        assert one["low"] - error <= truth <= one["high"] + error
    others = {one["prefix"]: one["uncovered"] for one in cats[1:]}
    assert [prefix for prefix, share in others.items() if share] == [
        f"{ROOT}{name}" for name in {0: [], 1: ["c/"], 2: ["c/0/"]}[by]
    ]


def test_a_prefix_without_draws_is_unknown_and_not_zero(scored: str) -> None:
    write_shard(scored, image(f"{ROOT}d/0/9991.jpg"), shard=3)
    drawn = draw(scored, budget=20)
    assert not any("/d/" in one for one in drawn.rows["image_uri"].to_pylist())
    (one,) = [
        one
        for one in measure(scored, count(scored, drawn), by=1)
        if one["prefix"] == f"{ROOT}d/" and one["label"] is None
    ]
    assert (one["draws"], one["total"], one["low"], one["high"]) == (0, None, None, None)
    page = storage.read_bytes(f"{scored}/e/estimates.html").decode()
    assert "unknown" in page


def test_where_nothing_was_counted_the_interval_is_not_zero(scored: str) -> None:
    drawn = draw(scored, budget=20)
    table = "image_uri,label,count\n" + "".join(
        f"{one},,0\n" for one in set(drawn.rows["image_uri"].to_pylist())
    )
    storage.write_bytes(f"{scored}/none.csv", table.encode())
    one = measure(scored, f"{scored}/none.csv")[0]
    assert (one["total"], one["low"]) == (0, 0)
    assert one["high"] > 10


def test_two_rounds_join_by_their_draws(scored: str) -> None:
    first, second = draw(scored), draw(scored, "s2", seed=2, budget=100)
    counts = count(scored, first), count(scored, second, "more.csv")
    alone = [measure(scored, counts, sample=f"{scored}/{name}")[0]["total"] for name in ("s", "s2")]
    both = measure(scored, counts, sample=(f"{scored}/s", f"{scored}/s2"))[0]
    assert both["total"] == pytest.approx((200 * alone[0] + 100 * alone[1]) / 300)
    assert both["draws"] == 300


def test_more_draws_are_told_for_a_wished_width(scored: str) -> None:
    counts = count(scored, draw(scored))
    wide, narrow = (measure(scored, counts, width=width)[0]["more_draws"] for width in (0.5, 0.05))
    assert 0 <= wide < narrow
    assert measure(scored, counts)[0]["more_draws"] is None


def test_rounds_with_one_seed_are_refused(scored: str) -> None:
    counts = count(scored, draw(scored))
    draw(scored, "s2", budget=50)
    with pytest.raises(UserError, match="two rounds have the seed 1"):
        measure(scored, counts, sample=(f"{scored}/s", f"{scored}/s2"))


def test_a_draw_without_a_count_is_refused(scored: str) -> None:
    counts = count(scored, draw(scored))
    lines = storage.read_bytes(counts).decode().splitlines()
    storage.write_bytes(counts, "\n".join(lines[:-1]).encode())
    missing = lines[-1].split(",")[0]
    with pytest.raises(UserError, match=f"{missing}: has no count; 1 of the"):
        measure(scored, counts)


def test_a_sample_of_another_run_is_refused(scored: str, tmp_path: Path) -> None:
    counts = count(scored, draw(scored))
    other = write_shard(str(tmp_path / "other"), row(1), run_id="r2").partition("/scored/")[0]
    with pytest.raises(UserError, match="drawn from run r1, which is not under"):
        estimate.run(
            EstimateConfig(scored=other, sample=(f"{scored}/s",), counts=(counts,), output=scored)
        )


def test_a_shortened_sample_is_refused(scored: str) -> None:
    counts = count(scored, draw(scored))
    place = f"{scored}/s/sample.parquet"
    table = pq.read_table(pa.BufferReader(storage.read_bytes(place)))
    sink = pa.BufferOutputStream()
    pq.write_table(table.slice(0, 100), sink)
    storage.write_bytes(place, sink.getvalue().to_pybytes())
    with pytest.raises(UserError, match="has 100 draws, expected the 200"):
        measure(scored, counts)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{uri},cow,1", "counts 'cow' in .*, which is no class"),
        ("{uri},cat,-1", "the count is '-1', expected an integer"),
        ("{uri},cat,1.5", "the count is '1.5', expected an integer"),
        ("{uri},cat,many", "the count is 'many', expected an integer"),
        ("{uri},,3", "counts 3 objects without a label"),
        (",cat,3", "names no image"),
        ("x.jpg,cat,3\nx.jpg,cat,3", "counts 'cat' in x.jpg again"),
    ],
)
def test_a_count_that_cannot_be_right_is_refused(scored: str, line: str, words: str) -> None:
    draw(scored)
    text = f"image_uri,label,count\n{line.format(uri=uri(3))}\n"
    storage.write_bytes(f"{scored}/bad.csv", text.encode())
    with pytest.raises(UserError, match=words):
        measure(scored, f"{scored}/bad.csv")


def test_counts_in_a_table_without_the_columns_are_refused(scored: str) -> None:
    draw(scored)
    storage.write_bytes(f"{scored}/bad.csv", b"image,label,count\na,b,1\n")
    with pytest.raises(UserError, match="has no column image_uri; its columns are image, label"):
        measure(scored, f"{scored}/bad.csv")


def test_parquet_and_csv_give_the_same_totals(scored: str) -> None:
    counts = count(scored, draw(scored))
    lines = [line.split(",") for line in storage.read_bytes(counts).decode().splitlines()[1:]]
    uris, labels, numbers = zip(*lines, strict=True)
    table = pa.table(
        {
            "image_uri": uris,
            "label": [x or None for x in labels],
            "count": [int(n) for n in numbers],
        }
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    storage.write_bytes(f"{scored}/counts.parquet", sink.getvalue().to_pybytes())
    assert measure(scored, f"{scored}/counts.parquet") == measure(scored, counts)


def test_labels_of_a_coco_file_are_counts(scored: str) -> None:
    drawn = draw(scored)
    content: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    for number, one in enumerate(dict.fromkeys(drawn.rows["image_uri"].to_pylist())):
        name = one.removeprefix(ROOT)
        content["images"].append({"id": number, "file_name": name, "width": 64, "height": 64})
        for category, label in ((1, "cat"), (2, "dog")):
            for _ in range(objects(int(one[-8:-4]))[label]):
                content["annotations"].append(
                    {
                        "id": len(content["annotations"]),
                        "image_id": number,
                        "category_id": category,
                        "bbox": [0, 0, 9 + len(content["annotations"]) % 50, 9],
                        "iscrowd": 0,
                    }
                )
        storage.write_bytes(f"{scored}/pictures/{name}", b"")
    storage.write_bytes(f"{scored}/labels/train.json", json.dumps(content).encode())
    from_labels = measure(scored, f"{scored}/labels/train.json", images_at=f"{scored}/pictures")
    assert from_labels == measure(scored, count(scored, drawn))


def test_images_that_were_scored_since_are_warned_of(
    scored: str, caplog: pytest.LogCaptureFixture
) -> None:
    counts = count(scored, draw(scored))
    write_shard(scored, row(9990), shard=3)
    with caplog.at_level(logging.WARNING):
        rows = measure(scored, counts)
    assert "the run has 601 images with status ok now; it had 600" in caplog.text
    assert rows[0]["images"] == 600
    with pytest.raises(UserError, match="images were scored since"):
        measure(scored, counts, by=1)


def test_a_draw_that_makes_much_of_the_total_is_warned_of(
    scored: str, caplog: pytest.LogCaptureFixture
) -> None:
    drawn = draw(scored, floor=0.01, budget=150)
    counts = count(scored, drawn)
    rare = min(drawn.rows.to_pylist(), key=lambda one: float(one["probability"]))["image_uri"]
    text = storage.read_bytes(counts).decode()
    lines = [line for line in text.splitlines() if rare not in line]
    storage.write_bytes(counts, "\n".join([*lines, f"{rare},cat,9"]).encode())
    with caplog.at_level(logging.WARNING):
        measure(scored, counts)
    assert "of the total" in caplog.text
    assert "larger --floor" in caplog.text


def test_a_sample_is_read_as_it_was_written(scored: str) -> None:
    drawn = draw(scored, by=2)
    again = read_sample(f"{scored}/s")
    assert (again.frame, again.seed, again.run_id) == (drawn.frame, drawn.seed, drawn.run_id)
    assert again.within() == pytest.approx(drawn.within())


def test_a_dry_run_writes_nothing(scored: str) -> None:
    draw(scored, dry_run=True)
    assert not storage.exists(f"{scored}/s/sample.parquet")
