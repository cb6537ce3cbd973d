"""Fixtures shared by all tests."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real images with boxes; they lie beside the checkout and are never copied into it."""
    if not (SHARED / "data").is_dir():
        pytest.skip("no ../shared/data beside the checkout: real images are not in the repository")
    return SHARED / "data"
