"""What a run does with bad labels and with classes that it does not use; the error that lists bad labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pipeline.annotations.labelled import BadLabel
from pipeline.errors import UserError

OnBadLabel = Literal["refuse", "skip", "clip"]

_SCREEN = 1500
"""Characters of the bad labels in one message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelRules:
    """What to do with labels that a run does not use as they are."""

    on_bad_label: OnBadLabel = "refuse"
    ignore_others: bool = False
    """Whether boxes of classes that are not given become ignored regions. Otherwise they are bad labels."""
    rename: Mapping[str, str] = field(default_factory=dict)
    """Class name in the data set -> name to use. Two classes may get one name."""


REFUSE = LabelRules()
"""Refuse each bad label, and each class that is not given."""


class BadLabelsError(UserError):
    """The labels that cannot be right, all in one error."""

    bad: tuple[BadLabel, ...] = ()
    cut_short: bool = False
    """Whether the message lists only the first of them."""


class NoClassError(UserError):
    """No box and no list of names says which classes there are."""


def refuse(bad: Sequence[BadLabel]) -> BadLabelsError:
    """Make the error that lists bad labels, at most a screen of them."""
    first, labels = bad[0], list(dict.fromkeys(one.text for one in bad))
    if len(bad) == 1:
        error = BadLabelsError(*first.error.args)
    else:
        shown: list[str] = []
        while len(shown) < len(labels) and sum(map(len, shown)) < _SCREEN:
            shown.append(labels[len(shown)][:300])
        rest = len(labels) - len(shown)
        files = len({one.annotation_uri for one in bad})
        error = BadLabelsError(
            f"{len(bad)} bad labels in {files} {'file' if files == 1 else 'files'}",
            "; ".join(shown) + (f"; and {rest} more" if rest else ""),
            "Correct them, or give --on-bad-label skip or clip. jobs/train.py --dry-run --report FILE lists"
            " all.",
        )
        error.cut_short = rest > 0
    error.bad = tuple(bad)
    return error
