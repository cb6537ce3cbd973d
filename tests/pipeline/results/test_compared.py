"""Two runs on the same images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.config import ReportConfig
from pipeline.errors import UserError
from pipeline.report import run
from pipeline.results.compared import agreement, compare
from pipeline.results.scored import find_run
from pipeline.results.tables import load_other, load_run
from tests.pipeline.scored_runs import image, write_shard

A, NEAR, FAR = (0.0, 0.0, 10.0, 10.0), (0.0, 0.0, 10.0, 8.0), (50.0, 50.0, 60.0, 60.0)


def test_boxes_agree_if_class_and_place_are_the_same() -> None:
    """The second box of one place has no partner, and neither has one of another class."""
    ours = [("cat", 0.9, A), ("cat", 0.8, A), ("dog", 0.7, FAR)]
    theirs = [("cat", 0.6, NEAR), ("owl", 0.9, FAR)]
    assert agreement(ours, theirs) == ([True, False, False], [True, False])
    assert agreement([], theirs) == ([], [False, False])
    assert agreement([], []) == ([], [])


def test_two_runs_are_counted_from_their_points_on(tmp_path: Path) -> None:
    """Images that only one run has, or that failed in one, are not compared. Classes go by name."""
    write_shard(
        str(tmp_path),
        image("1.jpg", ("cat", 0.9, A), ("dog", 0.8, FAR)),
        image("2.jpg", ("cat", 0.9, A)),
        image("3.jpg", ("cat", 0.9, A)),
        image("4.jpg", ("cat", 0.9, A)),
        run_id="a",
    )
    classes = ("owl", "dog", "cat")
    write_shard(
        str(tmp_path),
        image("2.jpg", ("cat", 0.6, NEAR), classes=classes),
        image("1.jpg", ("cat", 0.4, A), ("owl", 0.9, FAR), ("cat", 0.9, FAR), classes=classes),
        image("3.jpg", status="failed", classes=classes),
        image("5.jpg", ("cat", 0.9, A), classes=classes),
        run_id="b",
        classes=classes,
    )
    with load_run(find_run(str(tmp_path), "a"), memory_gib=0.5, temp_folder=None) as tables:
        other = load_other(tables, find_run(str(tmp_path), "b"))
        comparison, figures = compare(tables, other)
        # cat: image 2 agrees; image 1 has a cat below .5 there, and one where we see a dog.
        assert figures["classes"] == [("cat", 1, 1, 1, 0), ("dog", 0, 1, 0, 1)]
        assert (figures["in_both"], figures["compared"], figures["alike"]) == (2, 2, 1)
        assert (figures["shown"], figures["images"]) == (4, 4)
        assert figures["left_out_classes"] == ["owl"]
        assert comparison.differences == {0: 3}
        assert tables.rows("SELECT count(*) FROM images") == [(4,)]
        assert tables.rows("SELECT count(*) FROM shown") == [(5,)]


def test_a_run_to_compare_with_must_be_another_one_of_the_same_output(tmp_path: Path) -> None:
    write_shard(str(tmp_path), image("1.jpg"), run_id="a")
    config: dict[str, Any] = {"scored": str(tmp_path), "output": str(tmp_path), "gallery": 0}
    with pytest.raises(UserError, match="--compare b: is not under"):
        run(ReportConfig(**config, compare="b"))
    with pytest.raises(UserError, match="--compare a: is the only run under"):
        run(ReportConfig(**config, compare="a"))
    with pytest.raises(UserError, match="is the run of --run-id itself"):
        ReportConfig(**config, run_id="a", compare="a")
    write_shard(str(tmp_path), image("1.jpg"), run_id="b")
    assert run(ReportConfig(**config, compare="a")).uri == f"{tmp_path}/report/b.html"
