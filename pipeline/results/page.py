"""The report's page: data, style and script in one HTML file that loads nothing.

Class names, keys and error messages come from outside. They are safe here three times over: the JSON has no
character that ends a script or starts a tag; the page's script puts text in as text; and its policy
lets no other script run, nor anything be loaded.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

_SCRIPT = ("1_elements.js", "2_figures.js", "3_pictures.js")
_ESCAPED = str.maketrans(
    {c: f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}  # the last two end a line in old scripts
)


def page(title: str, data: Mapping[str, Any]) -> bytes:
    """The whole file, UTF-8.

    Args:
        title: of the page, and its headline.
        data: what the scripts in assets/ draw; JSON types.
    """
    style = _asset("style.css")
    # One function, so that no name of ours meets one of the browser's.
    script = f'(() => {{\n"use strict";\n{"".join(map(_asset, _SCRIPT))}}})();\n'
    policy = (
        f"default-src 'none'; img-src data:; script-src '{_hash(script)}'; style-src '{_hash(style)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    parts = {
        "title": html.escape(title),
        "policy": policy,
        "style": style,
        "script": script,
        "data": text.translate(_ESCAPED),
    }
    # In one pass: what is put in is not looked through again.
    whole = re.sub(r"\{\{(\w+)\}\}", lambda name: parts[name[1]], _asset("page.html"))
    return whole.encode()


def _asset(name: str) -> str:
    return files("pipeline.results").joinpath("assets", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
