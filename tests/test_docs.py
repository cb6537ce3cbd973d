"""Tests of the commands in the README and in docs/: all flags exist and all values are accepted."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from jobs import benchmark, demo
from pipeline.runtime.arguments import parse_arguments
from pipeline.runtime.commands import COMMANDS, find, load

CHECKOUT = Path(__file__).resolve().parents[1]
API = CHECKOUT / "docs" / "api.md"
PAGES = [
    CHECKOUT / "README.md",
    CHECKOUT / "CONTRIBUTING.md",
    *sorted(set((CHECKOUT / "docs").glob("*.md")) - {API}),
]
BLOCK = re.compile(r"^```[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[list[str]]:
    """Give the words of each command that runs a job, from the code blocks of a page."""
    result = []
    for block in BLOCK.findall(page.read_text()):
        for line in block.replace("\\\n", " ").splitlines():
            if re.search(r"\bjobs/\w+\.py\b", line) and not line.lstrip().startswith("#"):
                result.append(shlex.split(line, comments=True))
    return result


CASES = [
    pytest.param(words, id=f"{page.name}:{' '.join(words)[:60]}")
    for page in PAGES
    for words in commands(page)
]


@pytest.mark.parametrize("words", CASES)
def test_a_command_of_the_docs_is_accepted(words: list[str]) -> None:
    place = next(i for i, word in enumerate(words) if re.fullmatch(r"jobs/\w+\.py", word))
    name, flags = Path(words[place]).stem, words[place + 1 :]
    if name == "benchmark":
        command, flags = find(benchmark.TASKS, flags[0]), flags[1:]
    else:
        command = find((*COMMANDS, demo.DEMO), name)
    assert command is not None
    assert parse_arguments(load(command.config), flags, command.name) is not None


def test_every_job_is_in_the_docs() -> None:
    jobs = {path.stem for path in (CHECKOUT / "jobs").glob("*.py") if path.stat().st_mode & 0o100}
    named = {Path(word).stem for page in PAGES for words in commands(page) for word in words}
    text = "".join(page.read_text() for page in PAGES)
    assert {job for job in jobs - named if f"jobs/{job}.py" not in text} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_of_the_checkout_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


TO_BE_WRITTEN = {
    "fastrcnn/backbones/resnet18.py",
    "fastrcnn/proposals/quarters.py",
    "pipeline/annotations/box_table.py",
}
"""Files that a reader of CONTRIBUTING.md makes."""
FOLDERS = r"(?:pipeline|fastrcnn|jobs|benchmarks|demo|deploy|examples|tests)"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist_and_hold_what_it_says(page: Path) -> None:
    """Paths; names with a path behind them, as in "`Store` (`pipeline/storage/stores.py`)"; dotted names."""
    text = page.read_text()
    for path in set(re.findall(rf"`({FOLDERS}/[\w./-]+\.\w+)", text)) - TO_BE_WRITTEN:
        assert (CHECKOUT / path).exists(), path
    for name, path in re.findall(rf"`(\w+)` \(`({FOLDERS}/[\w./-]+\.py)`\)", text):
        assert re.search(rf"\b{name}\b", (CHECKOUT / path).read_text()), (name, path)
    for dotted in re.findall(rf"`({FOLDERS}\.[\w.]+)`", text):
        module, _, name = dotted.rpartition(".")
        place = CHECKOUT / module.replace(".", "/")
        source = next(
            (p for p in (place.with_suffix(".py"), place / "__init__.py") if p.exists()), None
        )
        is_module = any((place / f"{name}{end}").exists() for end in ("", ".py"))
        assert is_module or (source and re.search(rf"\b{name}\b", source.read_text())), dotted


def test_the_api_page_is_that_of_the_docstrings() -> None:
    """`make api` writes it."""
    found = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; sys.path.insert(0, 'docs'); import make_api; print(make_api.page())",
        ],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.rstrip("\n") == (CHECKOUT / "docs" / "api.md").read_text().rstrip("\n")
