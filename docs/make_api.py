"""python docs/make_api.py: write docs/api.md, the public functions and classes, from their docstrings."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CHECKOUT))

PAGE = CHECKOUT / "docs" / "api.md"
MODULES = (
    "pipeline.detector",
    "pipeline.detections",
    "pipeline.score",
    "pipeline.train",
    "pipeline.evaluate",
    "pipeline.calibrate",
    "pipeline.compact",
    "pipeline.report",
    "pipeline.export",
    "pipeline.sample",
    "pipeline.estimate",
    "pipeline.counting",
    "pipeline.config",
    "pipeline.errors",
    "pipeline.annotations",
    "pipeline.images",
    "pipeline.storage",
    "fastrcnn.config",
    "fastrcnn.model",
    "fastrcnn.loss",
    "fastrcnn.delta_statistics",
    "fastrcnn.detection",
    "fastrcnn.calibration",
    "fastrcnn.proposals",
    "fastrcnn.boxes",
    "fastrcnn.sampling",
    "fastrcnn.pooling",
    "fastrcnn.svd",
    "fastrcnn.checkpoint",
    "fastrcnn.metrics",
)
HEAD = """# The Python interface

`make api` makes this page from the docstrings, and a test compares it with them. Modules that are not here
may change in any version. Examples: [python.md](python.md). Flags of the jobs: `python jobs/X.py --help-all`.
"""


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for name in MODULES:
        module = importlib.import_module(name)
        parts.append(f"## {name}\n\n{quoted(module.__doc__ or '')}")
        parts += [described(name, member) for name, member in public(module)]
    return "\n".join(parts)


def public(module: ModuleType) -> Iterator[tuple[str, object]]:
    """The names that a module offers: those of `__all__`, else what it defines itself, in order."""
    listed = getattr(module, "__all__", None)
    for name in listed or vars(module):
        member = getattr(module, name)
        ours = listed is not None or getattr(member, "__module__", None) == module.__name__
        if (
            ours
            and not name.startswith("_")
            and (inspect.isclass(member) or inspect.isfunction(member))
        ):
            yield name, member


def described(name: str, member: object) -> str:
    """One function, or a class with its public methods."""
    text = f"### {name}{signature(member)}\n\n{quoted(inspect.getdoc(member) or '')}"
    if inspect.isclass(member):
        for method_name, method in vars(member).items():
            function = method.fget if isinstance(method, property) else method
            if not method_name.startswith("_") and inspect.isfunction(function):
                shown = "" if isinstance(method, property) else signature(function)
                doc = quoted(inspect.getdoc(function) or "")
                text += f"\n**{name}.{method_name}**{shown}\n\n{doc}"
    return text


def signature(member: object) -> str:
    """The arguments of a function; nothing for a class, whose docstring names them."""
    if inspect.isclass(member) or not callable(member):
        return ""
    text = re.sub(r"(: |-> )'([^']*)'", r"\1\2", str(inspect.signature(member)))
    return f"`{text}`".replace("`(self, ", "`(").replace("`(self)", "`()")


def quoted(text: str) -> str:
    """A docstring as it stands, in a block that Markdown leaves alone."""
    return f"```text\n{inspect.cleandoc(text)}\n```\n" if text else ""


if __name__ == "__main__":
    PAGE.write_text(page())
