"""The licence list is of the lock as it stands, and holds no licence that would bind this project's code."""

from __future__ import annotations

import re
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]


def test_the_list_is_the_locks_and_has_no_strong_copyleft() -> None:
    lock = (CHECKOUT / "requirements.lock").read_text()
    locked = dict(re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", lock, re.MULTILINE))
    rows = (CHECKOUT / "docs" / "licences.md").read_text().splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows if "|" in row][2:]
    assert {name: version for name, version, _, _ in cells} == locked, "run `make licences`"
    assert len(cells) > 100
    assert [row for row in cells if re.search(r"\bA?GPL|GNU (Affero )?General", row[2])] == []
