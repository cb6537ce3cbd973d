"""The counts of the work that was begun and not finished, in this process and in a Ray actor."""

from __future__ import annotations

import pickle
from collections import defaultdict

import pytest

from pipeline.runtime import attempts
from pipeline.runtime.attempts import AttemptLog, SharedAttempts


def test_what_was_finished_before_is_taken_with_the_next_beginning() -> None:
    log = AttemptLog()
    assert (log.begin("a"), log.begin("b")) == (0, 0)
    assert log.begin("c", ["a"]) == 0
    assert (log.begin("a"), log.begin("b"), log.begin("c")) == (0, 1, 1)


def test_work_that_is_repeated_after_its_end_counts_as_new() -> None:
    log = AttemptLog()
    log.begin("a")
    assert log.begin("a", ["a"]) == 0


@pytest.mark.usefixtures("ray_cluster")
def test_a_process_may_send_the_end_of_a_batch_with_the_beginning_of_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shared, other = SharedAttempts(), SharedAttempts()
    assert shared.begin("a") == 0
    shared.end_with_next("a")
    # A copy that Ray unpickled in this process knows what was finished here.
    copy = pickle.loads(pickle.dumps(shared))
    assert other.begin("a") == 0  # its own counts
    assert copy.begin("a") == 0
    copy.end_with_next("a")
    assert shared.begin("b") == 0
    shared.end_with_next("b")
    monkeypatch.setattr(
        attempts, "_ended", defaultdict(list)
    )  # as in a process that was started later
    assert (shared.begin("a"), shared.begin("b")) == (0, 1)


@pytest.mark.usefixtures("ray_cluster")
def test_an_end_that_is_sent_at_once_needs_no_next_beginning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shared = SharedAttempts()
    shared.begin("a")
    shared.end("a")
    monkeypatch.setattr(attempts, "_ended", defaultdict(list))
    assert shared.begin("a") == 0
