"""python -m tests.language: refuse phrases that a reader stumbles over.

It reads docstrings, comments, texts and docs. The rule is plain English: short sentences with a subject and
a verb, in the field's words. `make lint` runs this.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
BANNED = re.compile(
    r"\bhang(s|ing)? on (what|who|which|the)\b|\bin company\b|\bmend(s|ed|ing)?\b|\bwhoever\b"
    r"|\bwhat it is told\b|\bfor their order\b|\bwere found short\b|\bby itself or in\b",
    re.IGNORECASE,
)
FRAGMENT = re.compile(r"(Of|And|Likewise|Or|But)\b")
"""A docstring starts with a verb, or says what the thing is."""

Finding = tuple[int, str]
"""Line number and what is wrong."""


def findings(path: Path) -> Iterator[Finding]:
    """What a file says wrongly."""
    text = path.read_text()
    if path.suffix == ".md":
        for number, line in enumerate(text.splitlines(), 1):
            yield from banned(number, line)
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING):
            for number, line in enumerate(token.string.splitlines(), token.start[0]):
                yield from banned(number, line)
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Expr(value=ast.Constant(value=str(words))) if FRAGMENT.match(words.strip()):
                yield node.lineno, f"a docstring that begins with {words.split()[0]!r}"


def banned(number: int, line: str) -> Iterator[Finding]:
    """The banned phrases of one line."""
    for match in BANNED.finditer(line):
        yield number, f"{match[0]!r}"


def main() -> None:
    """Print every finding; exit with 1 if there is one."""
    listed = subprocess.run(
        ["git", "ls-files", "*.py", "*.md"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
    )
    wrong = [
        f"{name}:{number}: {what}"
        for name in listed.stdout.splitlines()
        if name not in ("tests/language.py", "tests/test_language.py")
        and (CHECKOUT / name).exists()
        for number, what in findings(CHECKOUT / name)
    ]
    sys.stdout.writelines(f"{line}\n" for line in wrong)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
