"""`fastrcnn-ray` and `python -m pipeline`: the first word names the job."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.runtime.commands import COMMANDS, dispatch, find, load, run_package

CHECKOUT = Path(__file__).resolve().parents[3]


def ends(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[object, str, str]:
    """Run the command; return the exit code, standard output and standard error."""
    with pytest.raises(SystemExit) as stop:
        dispatch(COMMANDS, "fastrcnn-ray", "Does much.", words)
    return stop.value.code, *capsys.readouterr()


def test_help_lists_each_job_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    code, out, _ = ends(["--help"], capsys)
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "usage: fastrcnn-ray COMMAND [flags]"
    for command in COMMANDS:
        assert sum(line.startswith(f"  {command.name} ") for line in lines) == 1
    assert "  report            Write one HTML page about a scoring run." in lines


def test_the_version_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = ends(["--version"], capsys)
    assert (code, out) == (0, "fastrcnn-ray 0.1.0\n")


def test_a_job_can_be_called_by_the_name_of_its_file() -> None:
    for words, name in (
        ("score score_bucket score-bucket", "score"),
        ("draw-scenes draw_scenes", "draw-scenes"),
    ):
        found = [find(COMMANDS, word) for word in words.split()]
        assert {command and command.name for command in found} == {name}
    assert find(COMMANDS, "") is None
    assert find(COMMANDS, "scores") is None


def test_an_unknown_job_gives_one_line_that_names_the_nearest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, _, err = ends(["scoer", "--images", "x"], capsys)
    assert code == 2
    assert err == "error: 'scoer': no such command. Did you mean score? (fastrcnn-ray --help)\n"
    code, _, err = ends([], capsys)
    assert code == 2
    assert err.startswith("error: no command was given. Expected one of train, score, evaluate,")
    assert err.count("\n") == 1


def test_flag_errors_name_the_command_that_was_used(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = ends(["compact", "--scroed", "x"], capsys)
    assert code == 2
    assert err == (
        "error: --scroed: no such flag. Did you mean --scored? Also missing: --output."
        " (fastrcnn-ray compact --help-all lists all)\n"
    )
    for argv, program in (
        ("/bin/fastrcnn-ray", "fastrcnn-ray"),
        ("x/__main__.py", "python -m pipe"),
    ):
        monkeypatch.setattr(sys, "argv", [argv, "evaluate"])
        with pytest.raises(SystemExit):
            run_package()
        assert f"({program}" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_each_job_names_a_file_a_config_and_a_function(command: object) -> None:
    (found,) = [c for c in COMMANDS if c is command]
    assert (CHECKOUT / found.file).is_file()
    assert load(found.config).__name__.endswith("Config")
    assert callable(load(found.run))


def test_a_job_runs_by_its_name(tmp_path: Path) -> None:
    flags = "--train 1 --val 0 --test 0 --score 0".split()
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "draw-scenes", "--output", "~/drawn", *flags],
        cwd=CHECKOUT,
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "drawn" / "shapes" / "JPEGImages" / "000000.jpg").is_file()
