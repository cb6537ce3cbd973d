"""Makes the page of estimates: the figures, and plain words on what they mean. It loads nothing."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

_STYLE = """
:root { color-scheme: light dark; --line: #ddd; --bar: #4878a8; --dot: #1b3a5b; --warn: #b58900 }
@media (prefers-color-scheme: dark) { :root { --line: #3a3f45; --bar: #4f8fc4; --dot: #a9d2f5 } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem }
p, ul { max-width: 60rem; overflow-wrap: anywhere }
.scroll { overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .5rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap }
th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left; white-space: normal; min-width: 5rem;
  max-width: 20rem; overflow-wrap: anywhere }
.warning { padding: .5rem 1rem; border-left: 4px solid var(--warn) }
svg { vertical-align: middle }
line { stroke: var(--bar) }
circle { fill: var(--dot) }
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_BAR = 120
"""Pixels of the picture of an interval."""
_MEANING = (
    "The totals are for the images with status ok. Images that could not be read are not in them: the column"
    " “not looked at” says what share they are.",
    "A 95% interval is made by a rule that is right in 95 of 100 repetitions of the whole procedure: another"
    " draw, the same people who count. It is wrong in about 5 of 100, and nobody can see in which. With many"
    " rows here, some intervals will miss.",
    "The interval covers the chance of the draw. It does not cover mistakes of the people who counted,"
    " objects that nobody can see in an image, or images that are not in the run.",
    "The totals do not rest on the detector. If it is poor, the intervals are wider; the totals stay right."
    " “Expected” is the sum of its scores, for comparison.",
    "The upper end is further away than the lower one where few images were counted in which the detector"
    " saw nothing: more may be in the others. The bootstrap lacks this part.",
    "“Unknown” means that fewer than two draws fell into a prefix. It does not mean that nothing is there.",
    "The number of draws must be fixed beforehand. A person who draws further rounds until an interval looks"
    " good gets intervals that miss more often than 5 of 100.",
)


def estimates_page(described: Mapping[str, Any]) -> bytes:
    """Return the page as UTF-8.

    Args:
        described: the content of estimates.json.
    """
    rows = described["estimates"]
    draws = sum(sample["draws"] for sample in described["samples"])
    first = rows[0]
    words = [
        f"<p>{_text(_sentence(first))}</p>",
        *(f'<p class="warning">{_text(warning)}</p>' for warning in described["warnings"]),
        _table([row for row in rows if row["scope"] == "total"], "All images"),
    ]
    prefixes = [row for row in rows if row["scope"] == "prefix"]
    if prefixes:
        words.append(_table(prefixes, "By prefix"))
    meaning = "".join(f"<li>{_text(line)}</li>" for line in _MEANING)
    source = f"Run {described['run_id']}, {draws} draws in {len(described['samples'])} round(s)."
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Counts</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="referrer" content="no-referrer">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<style>{_STYLE}</style></head><body><h1>Counts</h1>{''.join(words)}"
        f"<h2>What the figures mean</h2><ul>{meaning}</ul><p>{_text(source)}</p></body></html>\n"
    )
    return page.encode()


def _sentence(row: Mapping[str, Any]) -> str:
    name = "objects of all classes" if row["label"] is None else f"objects of class {row['label']}"
    if row["total"] is None:
        return f"The number of {name} is unknown: too few images were counted."
    return (
        f"In {row['images']:,} images there are about {row['total']:,.0f} {name}; the 95% interval is"
        f" {row['low']:,.0f} to {row['high']:,.0f}. {row['uncovered']:.1%} of the images were not looked at."
    )


def _table(rows: list[Mapping[str, Any]], title: str) -> str:
    heads = (
        "prefix", "class", "total", "95% interval", "", "bootstrap", "expected", "draws", "images",
        "not looked at",
    )  # fmt: skip
    more = any(row["more_draws"] is not None for row in rows)
    head = "".join(f"<th>{name}</th>" for name in (*heads, *(["draws more"] if more else [])))
    longest = max((row["high"] or 0 for row in rows), default=0)
    body = "".join(_line(row, longest, more) for row in rows)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<h2>{title}</h2><div class="scroll" tabindex="0">{table}</div>'


def _line(row: Mapping[str, Any], longest: float, more: bool) -> str:
    if row["total"] is None:
        figures = ["unknown", "", "", ""]
    else:
        figures = [
            f"{row['total']:,.0f}",
            f"{row['low']:,.0f} to {row['high']:,.0f}",
            _bar(row, longest),
            f"{row['bootstrap_low']:,.0f} to {row['bootstrap_high']:,.0f}",
        ]
    cells = [
        _text(row["prefix"] or "all"),
        _text(row["label"] or "all"),
        *figures,
        f"{row['expected']:,.1f}",
        f"{row['draws']:,}",
        f"{row['images']:,}",
        f"{row['uncovered']:.1%}",
    ]
    if more:
        cells.append("" if row["more_draws"] is None else f"{row['more_draws']:,}")
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _bar(row: Mapping[str, Any], longest: float) -> str:
    """Draw the interval as a line and the total as a dot."""
    low, high, total = (_BAR * row[name] / max(longest, 1e-9) for name in ("low", "high", "total"))
    line = f'<line x1="{low + 4:.1f}" x2="{high + 4:.1f}" y1="6" y2="6"'
    dot = f'<circle cx="{total + 4:.1f}" cy="6" r="2.5"/>'
    return f'<svg width="{_BAR + 8}" height="12">{line} stroke-width="3"/>{dot}</svg>'


def _text(value: object) -> str:
    return html.escape(str(value))
