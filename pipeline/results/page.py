"""Makes the page of a report: data, style and script in one HTML file that loads nothing.

Class names, keys and error messages come from outside, so the page is protected in three ways. The JSON has
no character that can end a script or start a tag. The script inserts text only as text, never as markup. The
content security policy blocks every other script and every request.
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

_SCRIPT = (
    "1_elements.js",
    "2_figures.js",
    "3_accuracy.js",
    "4_filter.js",
    "5_pictures.js",
    "6_viewer.js",
)
_ESCAPED = str.maketrans(
    {
        c: f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"
    }  # old browsers read the last two as line ends
)


def page(title: str, data: Mapping[str, Any], *, reliability: str = "") -> bytes:
    """Return the whole file as UTF-8.

    Args:
        title: the title and the headline of the page.
        data: the data that the scripts in assets/ draw; JSON types.
        reliability: the section of `pipeline.results.reliability_figure`, markup.
    """
    style = asset("style.css")
    # Everything is in one function, so that no name collides with a global name of the browser.
    script = f'(() => {{\n"use strict";\n{"".join(map(asset, _SCRIPT))}}})();\n'
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    parts = {
        "title": html.escape(title),
        "policy": policy(style, script),
        "style": style,
        "script": script,
        "data": text.translate(_ESCAPED),
        "reliability": reliability,
    }
    # One pass, so that inserted text is not searched for placeholders.
    html_text = re.sub(r"\{\{(\w+)\}\}", lambda name: parts[name[1]], asset("page.html"))
    return html_text.encode()


def asset(name: str) -> str:
    """Return the text of a file in assets/."""
    return files("pipeline.results").joinpath("assets", name).read_text(encoding="utf-8")


def policy(style: str, script: str) -> str:
    """Return the content security policy of a page with this style and this script, which loads nothing."""
    return (
        f"default-src 'none'; img-src data:; script-src '{_hash(script)}'; style-src '{_hash(style)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
