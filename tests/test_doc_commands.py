"""Every command and code block of the docs is run by a test, or `tests/doc_commands.py` names the reason."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.doc_commands import CHECKOUT, RULES, items, pages, rules_of


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_each_command_has_a_test_or_a_reason(page: Path) -> None:
    missing = [
        f"{item.page}:{item.line}: {item.text}" for item in items(page) if not rules_of(item)
    ]
    assert missing == [], "Run it in a test, and add a rule to tests/doc_commands.py."


def test_each_rule_is_used_and_says_something() -> None:
    used = {rules_of(item)[0] for page in pages() for item in items(page) if rules_of(item)}
    assert [rule for rule in RULES if rule not in used] == []
    assert [rule for rule in RULES if not rule.test and not rule.reason] == []


def test_each_test_that_a_rule_names_exists() -> None:
    for rule in RULES:
        if rule.test:
            file, _, name = rule.test.partition("::")
            tree = ast.parse((CHECKOUT / "tests" / file).read_text())
            assert name in [node.name for node in tree.body if isinstance(node, ast.FunctionDef)], (
                rule
            )
