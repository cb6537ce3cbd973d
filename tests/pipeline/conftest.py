"""A browser for the tests of pages."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.pipeline.chromium import NAMES, Chromium, find


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    program = find()
    if program is None:
        pytest.skip(f"no Chromium on PATH ({', '.join(NAMES)}): Debian has it as chromium")
    with Chromium(program, tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(autouse=True)
def no_problems(request: pytest.FixtureRequest) -> Iterator[None]:
    """Check that there was no exception, no error in the console and no request."""
    yield
    if "chromium" in request.fixturenames:
        browser: Chromium = request.getfixturevalue("chromium")
        problems, browser.problems = browser.problems, []
        assert problems == []
