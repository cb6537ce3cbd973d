"""The check of texts refuses what it is for, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.language import findings


@pytest.mark.parametrize(
    ("name", "text", "lines"),
    [
        ("a.py", '"""Of a model."""\n', [1]),
        ("a.py", 'def f() -> None:\n    """Likewise."""\n', [2]),
        ("a.py", 'x = 1\n"""And of y."""\n', [2]),
        ("a.py", "# whoever reads this\n", [1]),
        ("a.py", 'raise ValueError("Mend the value.")\n', [1]),
        ("a.md", "The image alone or in company.\n\nIt hangs on the store.\n", [1, 3]),
        (
            "a.py",
            '"""Read an image. Often it is small; official amendments do not matter."""\n',
            [],
        ),
        ("a.py", "def mend() -> None:\n    pass\n", []),
    ],
)
def test_a_text_is_judged_line_by_line(
    tmp_path: Path, name: str, text: str, lines: list[int]
) -> None:
    (tmp_path / name).write_text(text)
    assert [number for number, _ in findings(tmp_path / name)] == lines
