"""Tests of docs/licences.md: it matches the lock, and holds no licence that binds the code of this
project."""

from __future__ import annotations

import re
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]


def test_the_list_matches_the_lock_and_has_no_strong_copyleft() -> None:
    lock = (CHECKOUT / "requirements.lock").read_text()
    locked = dict(re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", lock, re.MULTILINE))
    rows = (CHECKOUT / "docs" / "licences.md").read_text().splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows if "|" in row][2:]
    assert {name: version for name, version, _, _ in cells} == locked, "run `make licences`"
    assert len(cells) > 100
    assert [row for row in cells if re.search(r"\bA?GPL|GNU (Affero )?General", row[2])] == []
