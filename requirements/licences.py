"""make licences: docs/licences.md, every locked package with the licence in its metadata.

What is not installed here (wheels of other systems) is listed without one.
"""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, distribution, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

CHECKOUT = Path(__file__).resolve().parents[1]
PROJECT = "fastrcnn-ray"
_PINNED = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)
_TEXTS = (  # of those who put the whole licence where its name belongs
    ("Redistribution and use in source and binary forms", "BSD"),
    ("matplotlib", "PSF-based (matplotlib)"),
    ("Permission is hereby granted, free of charge", "MIT"),
    ("Apache License", "Apache-2.0"),
)


def locked() -> dict[str, str]:
    """Name -> version, of requirements.lock."""
    return dict(_PINNED.findall((CHECKOUT / "requirements.lock").read_text()))


def licence(name: str) -> str:
    """As the package states it: an SPDX expression, else its classifier, else its free text."""
    try:
        metadata = distribution(name).metadata
    except PackageNotFoundError:
        return ""
    classifiers = [c for c in metadata.get_all("Classifier") or [] if c.startswith("License ::")]
    text = str(next(iter(metadata.get_all("License") or []), ""))
    if stated := metadata.get_all("License-Expression"):
        return str(stated[0])
    if classifiers:
        return ", ".join(c.rpartition(" :: ")[2] for c in classifiers)
    if len(text) <= 60 and text:
        return text
    return next((short for part, short in _TEXTS if part in text), "see its licence file")


def needed(name: str, extras: frozenset[str] = frozenset()) -> set[str]:
    """`name` and all that running it needs on this machine."""
    found: set[tuple[str, frozenset[str]]] = set()
    todo = [(canonicalize_name(name), extras)]
    while todo:
        entry = todo.pop()
        if entry in found:
            continue
        found.add(entry)
        try:
            lines = requires(entry[0]) or []
        except PackageNotFoundError:
            continue
        for requirement in map(Requirement, lines):
            wanted = [{"extra": extra} for extra in entry[1] or {""}]
            if requirement.marker is None or any(map(requirement.marker.evaluate, wanted)):
                todo.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return {entry for entry, _ in found}


def table() -> str:
    """Make the text of docs/licences.md."""
    running = needed(PROJECT)
    lines = [
        "# Licences of dependencies",
        "",
        "Made by `make licences` from the metadata of the installed packages. The versions are those of"
        " `requirements.lock`. *run*: needed by the jobs; *tools*: by tests, demo and extras only.",
        "The project is under Apache-2.0 and copies no code of these packages.",
        "",
        "| package | version | licence | for |",
        "| --- | --- | --- | --- |",
    ]
    for name, version in sorted(locked().items()):
        use = "run" if canonicalize_name(name) in running else "tools"
        lines.append(f"| {name} | {version} | {licence(name) or 'not installed here'} | {use} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    (CHECKOUT / "docs" / "licences.md").write_text(table())
