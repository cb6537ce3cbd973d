"""Tests of --help: text in a terminal of 80 columns, and the time and memory of --help and flag errors."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from jobs import benchmark, demo
from pipeline.runtime.commands import COMMANDS, Command, load
from pipeline.runtime.flags import all_flags, read_flags

CHECKOUT = Path(__file__).resolve().parents[2]
JOBS = {command.file: command for command in (*COMMANDS, demo.DEMO)}
CASES = [
    *(pytest.param([file], command, id=command.name) for file, command in JOBS.items()),
    *(
        pytest.param(["jobs/benchmark.py", task.name], task, id=f"benchmark {task.name}")
        for task in benchmark.TASKS
    ),
]


def exit_of(words: list[str], monkeypatch: pytest.MonkeyPatch, columns: int = 80) -> object:
    """Run the job's file in this process; give the exit code."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(CHECKOUT / words[0]), run_name="__main__")
    return stop.value.code


def test_every_executable_file_is_in_the_table_of_jobs() -> None:
    files = {f"jobs/{p.name}" for p in (CHECKOUT / "jobs").glob("*.py") if p.stat().st_mode & 0o100}
    assert files == {*JOBS, "jobs/benchmark.py"}


@pytest.mark.parametrize("file", [*JOBS, "jobs/benchmark.py"])
def test_the_docstring_of_a_job_starts_with_its_command(file: str) -> None:
    text = (CHECKOUT / file).read_text()
    assert re.match(
        rf'#!/usr/bin/env python3\n"""(ray job submit --working-dir \. -- )?python {file}', text
    )


@pytest.mark.parametrize("columns", [60, 80])
@pytest.mark.parametrize(("words", "command"), CASES)
def test_help_all_shows_each_flag_once_in_the_width_of_the_terminal(
    words: list[str],
    command: Command,
    columns: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert exit_of([*words, "--help-all"], monkeypatch, columns) == 0
    text = capsys.readouterr().out
    # A path is one word, which is never broken.
    assert [s for s in text.splitlines() if len(s) > columns and len(s.split()) > 2] == []
    assert text.startswith(f"usage: python {' '.join(words)} ")
    heads = re.findall(r"^  (--\S+)", text, re.MULTILINE)
    assert sorted(heads) == sorted(all_flags(load(command.config)))
    assert [line for line in text.splitlines() if line != line.rstrip()] == []


@pytest.mark.parametrize(("words", "command"), CASES)
def test_help_shows_the_required_flags_first_and_fewer_than_help_all(
    words: list[str],
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert exit_of([*words, "--help"], monkeypatch) == 0
    text = capsys.readouterr().out
    heads = re.findall(r"^  (--\S+)", text, re.MULTILINE)
    flags = all_flags(load(command.config))
    required = [flag.name for flag in flags.values() if flag.required]
    assert heads[: len(required)] == required
    hidden = len(flags) - len(heads)
    assert (f"--help-all shows {hidden} more flags." in text) == (hidden > 0)


@pytest.mark.parametrize(("words", "command"), CASES)
def test_every_flag_is_in_one_group_and_has_a_help_text(words: list[str], command: Command) -> None:
    config = load(command.config)
    flags, _ = read_flags(config)
    grouped = [name for group in config.GROUPS for name in (*group.common, *group.more)]
    assert sorted(grouped) == sorted(flag.field for flag in flags if not flag.required)
    wordless = [flag.name for flag in all_flags(config).values() if len(flag.help_text) < 10]
    assert wordless == []


def test_help_is_at_most_100_columns_wide(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_of(["jobs/train.py", "--help-all"], monkeypatch, columns=300) == 0
    lines = capsys.readouterr().out.splitlines()
    assert 90 < max(map(len, lines)) <= 100


PROBE = """
import resource, runpy, sys
sys.argv = sys.argv[1:]
code = 0
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as stop:
    code = stop.code
heavy = {"torch", "ray", "pyarrow", "numpy", "boto3", "duckdb", "PIL", "cv2"} & set(sys.modules)
used = resource.getrusage(resource.RUSAGE_SELF)
# ru_maxrss is not used: it starts with the memory of the parent process.
(peak,) = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
print("PROBE", code, used.ru_utime + used.ru_stime, int(peak) // 1024, *sorted(heavy))
"""


@pytest.mark.parametrize("flag", ["--help", "--no-such-flag"])
@pytest.mark.parametrize(("words", "command"), CASES)
def test_help_and_flag_errors_import_nothing_heavy(
    words: list[str], command: Command, flag: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *words, flag],
        cwd=CHECKOUT,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    code, seconds, mebibytes, *heavy = done.stdout.splitlines()[-1].split()[1:]
    assert heavy == []
    assert int(code) == (0 if flag == "--help" else 2)
    assert float(seconds) < 0.5
    assert int(mebibytes) < 60  # 150 is promised, 20 is measured
    if flag != "--help":
        assert done.stderr.startswith("error: --no-such-flag: no such flag.")
        assert done.stderr.count("\n") == 1
