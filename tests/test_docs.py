"""Every command in the README and in docs/ has flags that exist and values that are accepted."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import tyro

CHECKOUT = Path(__file__).resolve().parents[1]
PAGES = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[list[str]]:
    """Words of each command in the page's code blocks that runs a job."""
    found = []
    for block in BLOCK.findall(page.read_text()):
        for line in block.replace("\\\n", " ").splitlines():
            if re.search(r"\bjobs/\w+\.py\b", line) and not line.lstrip().startswith("#"):
                found.append(shlex.split(line, comments=True))
    return found


def config_type(job: str) -> Any:
    """The dataclass that the job's file hands to `main`."""
    module = importlib.import_module(f"jobs.{job}")
    (name,) = re.findall(
        r"^    (?:cli\.)?main\((\w+), run", Path(str(module.__file__)).read_text(), re.M
    )
    return getattr(module, name)


CASES = [
    pytest.param(words, id=f"{page.name}:{' '.join(words)[:60]}")
    for page in PAGES
    for words in commands(page)
]


@pytest.mark.parametrize("words", CASES)
def test_a_command_of_the_docs_is_accepted(words: list[str]) -> None:
    place = next(i for i, word in enumerate(words) if re.fullmatch(r"jobs/\w+\.py", word))
    config = tyro.cli(config_type(Path(words[place]).stem), args=words[place + 1 :])
    assert config is not None


def test_every_job_is_in_the_docs() -> None:
    jobs = {path.stem for path in (CHECKOUT / "jobs").glob("*.py") if path.stat().st_mode & 0o100}
    named = {Path(word).stem for page in PAGES for words in commands(page) for word in words}
    text = "".join(page.read_text() for page in PAGES)
    assert {job for job in jobs - named if f"jobs/{job}.py" not in text} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_inside_the_checkout_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target
