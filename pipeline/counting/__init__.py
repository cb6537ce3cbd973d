"""The statistics of counts with intervals: which images to draw, and what they say.

It imports numpy and nothing of this program, so that each formula can be tested by itself.
"""

from pipeline.counting.draw import Design, Walk, allocate, class_shares, floors_for
from pipeline.counting.estimators import Cell, Estimate, Interval, bootstrap, estimate, more_draws

__all__ = [
    "Cell",
    "Design",
    "Estimate",
    "Interval",
    "Walk",
    "allocate",
    "bootstrap",
    "class_shares",
    "estimate",
    "floors_for",
    "more_draws",
]
