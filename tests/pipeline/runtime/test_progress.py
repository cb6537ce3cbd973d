"""Progress on a pseudo-terminal and in a pipe."""

from __future__ import annotations

import logging
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.runtime import progress
from pipeline.runtime.progress import Progress, duration

CHECKOUT = Path(__file__).resolve().parents[3]
JOB = """
import logging, time
from pipeline.runtime.cli import configure_logging
from pipeline.runtime.progress import Progress
configure_logging()
with Progress("scoring", 40, "images") as shown:
    for done in range(1, 41):
        shown.update(done, f"{done} ok [x]")
        if done == 20:
            logging.getLogger("job").info("halfway, in the log")
        time.sleep(0.01)
logging.getLogger("job").info("after")
"""


def under_a_terminal(code: str) -> str:
    """Run code and return what it sends to a terminal of 100 columns."""
    master, slave = pty.openpty()
    environment = os.environ | {"COLUMNS": "100", "TERM": "xterm"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=CHECKOUT, stderr=slave, env=environment
    )
    os.close(slave)
    sent = b""
    try:
        while part := os.read(master, 4096):
            sent += part
    except OSError:  # the other end is closed
        pass
    os.close(master)
    assert process.wait() == 0
    return sent.decode()


def test_a_terminal_shows_a_bar_that_fills_and_the_log_above_it() -> None:
    sent = under_a_terminal(JOB)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", sent)
    assert re.search(r"scoring ━+ 40/40 images 0:00:00 40 ok \[x\]", plain)
    assert "\x1b[" in sent
    (line,) = re.findall(r"[^\r\n]*halfway, in the log", plain)
    assert re.fullmatch(r"\d\d:\d\d:\d\d job: halfway, in the log", line)
    assert plain.rstrip().endswith("job: after")
    assert "progress: scoring:" not in plain


def test_a_pipe_gets_plain_lines_at_intervals_and_a_last_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with caplog.at_level(logging.INFO), Progress("scoring", 100, "images", done=10) as shown:
        for done in range(11, 101):
            now[0] += 0.5
            shown.update(done, f"{done} ok")
    assert len(caplog.messages) == 5
    assert caplog.messages[0] == "scoring: 30 of 100 images, 2.0/s, 0:00:35 left; 30 ok"
    assert caplog.messages[-1] == "scoring: 100 of 100 images, 2.0/s, 0:00:00 left; 100 ok"


def test_the_end_is_logged_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    with caplog.at_level(logging.INFO), Progress("scoring", 2, "images") as shown:
        shown.update(1)
        shown.update(2)
    lines = [record.getMessage() for record in caplog.records]
    assert [line.split(", ")[0] for line in lines] == [
        "scoring: 1 of 2 images",
        "scoring: 2 of 2 images",
    ]


def test_short_work_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), Progress("reading", 3, "shards") as shown:
        shown.update(3)
    assert caplog.messages == []


def test_without_a_total_no_remaining_time_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with caplog.at_level(logging.INFO), Progress("listing", None, "images") as shown:
        now[0] += 10
        shown.update(5000)
    assert caplog.messages == ["listing: 5000 images, 500.0/s"]


def test_a_bar_without_a_total_is_full_at_the_end() -> None:
    sent = under_a_terminal(JOB.replace('40, "images"', 'None, "images"'))
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", sent)
    assert re.search(r"scoring ━+ 40/40 images 0:00:00 40 ok \[x\]", plain)


def test_failed_work_logs_no_last_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0)
    failed = pytest.raises(KeyError)
    with caplog.at_level(logging.INFO), failed, Progress("reading", 3, "shards") as shown:
        shown.update(0)
        raise KeyError
    assert len(caplog.messages) == 1
    assert caplog.messages[0].endswith("? left")


def test_durations_are_hours_minutes_and_seconds() -> None:
    assert [duration(s) for s in (7, 65, 3661.4)] == ["0:00:07", "0:01:05", "1:01:01"]
