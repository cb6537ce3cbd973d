"""Advice after a training: what limits the detector, in plain words, with the flag or action that helps.

`advise` is a pure function from counts and matched boxes to findings. A finding needs a minimum number of
boxes, so that a tiny data set does not get advice from two of them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fastrcnn.config import LEARNED
from fastrcnn.metrics import Matches, at_score
from fastrcnn.metrics.operating import FEW_OBJECTS, thresholds_of

FEW_IMAGES = 30
"""A class with fewer training images is called rare."""
SMALL_SIDE = 12.0
"""Objects with a smaller side in the model frame cover less than a cell of a stride-16 map."""
FEWEST = 5
"""Boxes that a finding is made from at least."""
NOTABLE = 0.1
"""Share of the objects that a finding is made from at least."""
GOOD_AP = 0.7
"""A rare class with this AP needs no advice."""
CERTAIN = 0.8
"""Score from which a box on nothing may be an object without a label."""
COVERED = 0.9
"""Share of the objects that the proposals should cover at IoU .5."""
STILL_RISING = 0.02
"""Gain of mAP in the last third of the training that shows that it was stopped early."""
LISTED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One limit of a detector."""

    kind: str
    """few_images, small_objects, unlabelled, confusion, placement, stopped_early, proposals, few_objects."""
    what: str
    """What was seen, with numbers. A sentence."""
    action: str
    """What helps. A sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What `advise` judges by. O objects, K classes."""

    classes: Sequence[str]
    images_per_class: Sequence[int]
    """(K,) training images with an object of the class."""
    matches: Matches
    """The boxes of the detector on images that it was not trained on."""
    sides: npt.NDArray[np.float64]
    """(O,) square root of the area of each object of `matches`, in pixels of the model frame."""
    scale: int
    """The model's scale."""
    largest_scale: int
    """Shorter side of most of these images, in pixels: a larger scale only enlarges them."""
    image_names: Sequence[str]
    """Names of the images of `matches`."""
    min_scores: npt.NDArray[np.float64]
    """(K,) score from which people look at boxes."""
    ap: Sequence[float | None]
    """(K,) average precision; None if it was not measured."""
    history: Sequence[tuple[int, float]] = ()
    """(iteration, mAP) of each validation, in order."""
    proposer: str = LEARNED
    covered: float | None = None
    """Share of the objects that the proposals cover at IoU .5."""


def advise(facts: Facts) -> list[Finding]:
    """Find what limits a detector, the widest limits first: data, proposals, then single boxes."""
    makers = (
        _few_objects,
        _few_images,
        _proposals,
        _small_objects,
        _stopped_early,
        _unlabelled,
        _placement,
        _confusions,
    )
    return [finding for make in makers for finding in make(facts)]


def _few_objects(facts: Facts) -> list[Finding]:
    """Warn if all numbers rest on a few objects."""
    count = len(facts.matches.object_labels)
    if count >= FEW_OBJECTS:
        return []
    if not count:
        what = "No labelled object was held out of the training, so the detector was not measured."
        action = "Hold out images: --val-split or --val-fraction."
        return [Finding(kind="few_objects", what=what, action=action)]
    what = f"All numbers here rest on {_number(count, 'object')} in the images that were held out."
    action = "Treat them as rough. Label more images to validate on: --val-split or --val-fraction."
    return [Finding(kind="few_objects", what=what, action=action)]


def _few_images(facts: Facts) -> list[Finding]:
    """Name the classes with few training images that are not detected well."""
    rare = [
        (count, name, ap)
        for count, name, ap in zip(facts.images_per_class, facts.classes, facts.ap, strict=True)
        if count < FEW_IMAGES and (ap is None or ap < GOOD_AP)
    ]
    if not rare:
        return []
    names = [
        f"{name} ({_number(count, 'image')}, {'AP not measured' if ap is None else f'AP {ap:.2f}'})"
        for count, name, ap in sorted(rare, key=lambda row: row[:2])
    ]
    what = f"Few training images show {_listing(names)}."
    group = "this class" if len(rare) == 1 else "these classes"
    action = f"Label more images of {group}: {FEW_IMAGES} to 100."
    return [Finding(kind="few_images", what=what, action=action)]


def _proposals(facts: Facts) -> list[Finding]:
    """Warn if many objects have no proposal: no training finds them."""
    count = len(facts.matches.object_labels)
    if facts.covered is None or facts.covered >= COVERED or count < 2 * FEWEST:
        return []
    what = (
        f"The proposals ({facts.proposer}) cover {facts.covered:.0%} of the objects at IoU .5. The others"
        " cannot be found."
    )
    if facts.proposer == LEARNED:
        action = "Train longer, or give a larger --scale or --rpn.max-proposals-test."
    else:
        action = f"Train with --proposals {LEARNED}."
    return [Finding(kind="proposals", what=what, action=action)]


def _small_objects(facts: Facts) -> list[Finding]:
    """Warn if many objects are small in the model, and are missed more often than the others."""
    small = facts.sides < SMALL_SIDE
    count = int(np.count_nonzero(small))
    if count < max(FEWEST, NOTABLE * len(small)):
        return []
    is_found = _found(facts)
    missed = 1 - float(is_found[small].mean())
    others = 1 - float(is_found[~small].mean()) if not small.all() else 0.0
    if missed < 0.2 or missed < others:
        return []
    typical = float(np.median(facts.sides[small]))
    wanted = math.ceil(facts.scale * 1.5 * SMALL_SIDE / typical / 32) * 32
    what = (
        f"{count} of {_number(len(small), 'object')} have a side below {SMALL_SIDE:g} pixels in the model,"
        f" and {missed:.0%} of them are missed ({others:.0%} of the others)."
    )
    if facts.scale >= facts.largest_scale:
        action = "Take images from nearer or with more pixels: these are used at full size already."
    else:
        scale = min(wanted, facts.largest_scale)
        action = f"Give a larger --scale, such as {scale} instead of {facts.scale}."
    return [Finding(kind="small_objects", what=what, action=action)]


def _stopped_early(facts: Facts) -> list[Finding]:
    """Warn if mAP still rose in the last third of the training."""
    if len(facts.history) < 4:
        return []
    values = [value for _, value in facts.history]
    earlier = max(values[: max(1, len(values) * 2 // 3)])
    gain = values[-1] - earlier
    if gain < STILL_RISING or values[-1] < max(values):
        return []
    what = (
        f"The validation mAP still rose when the training ended: by {gain:.3f} to {values[-1]:.3f} in the"
        " last third of the steps."
    )
    action = f"Train longer: --iterations {2 * facts.history[-1][0]} in a new --output."
    return [Finding(kind="stopped_early", what=what, action=action)]


def _unlabelled(facts: Facts) -> list[Finding]:
    """List images where certain boxes lie on nothing: objects without a label, or things that look alike."""
    matches = facts.matches
    nothing = ~matches.correct & (np.maximum(matches.class_iou, matches.other_iou) < 0.1)
    rows = np.flatnonzero(nothing & (matches.scores >= CERTAIN))
    if len(rows) < max(FEWEST, 0.02 * len(matches.object_labels)):
        return []
    rows = rows[np.argsort(-matches.scores[rows], kind="stable")]
    names = list(dict.fromkeys(facts.image_names[i] for i in matches.images[rows]))
    what = (
        f"{_number(len(rows), 'box', 'boxes')} with scores from {CERTAIN:g} lie where no label is:"
        f" {_listing(names)}."
    )
    action = (
        "Look at these images. Add the labels that are missing, or more images of what looks alike."
    )
    return [Finding(kind="unlabelled", what=what, action=action)]


def _placement(facts: Facts) -> list[Finding]:
    """Warn if many boxes lie beside their object."""
    matches = facts.matches
    beside = (matches.class_iou >= 0.3) & (matches.class_iou < 0.5) & _above(facts)
    count, objects = int(np.count_nonzero(beside)), len(matches.object_labels)
    if count < max(FEWEST, NOTABLE * objects):
        return []
    what = (
        f"{_number(count, 'box', 'boxes')} overlap their object too little (IoU .3 to .5);"
        f" there are {_number(objects, 'object')}."
    )
    action = (
        "Check that labels enclose the objects tightly. Else train longer or with a larger --scale."
    )
    return [Finding(kind="placement", what=what, action=action)]


def _confusions(facts: Facts) -> list[Finding]:
    """Name pairs of classes that are mistaken for each other."""
    matches = facts.matches
    wrong = (
        ~matches.correct & (matches.other_iou >= 0.5) & (matches.class_iou < 0.5) & _above(facts)
    )
    pairs = Counter(
        zip(matches.other_labels[wrong].tolist(), matches.labels[wrong].tolist(), strict=True)
    )
    findings = []
    for (real, given), count in pairs.most_common(LISTED):
        objects = int(np.count_nonzero(matches.object_labels == real))
        if count < max(FEWEST, NOTABLE * objects):
            continue
        name, other = facts.classes[real - 1], facts.classes[given - 1]
        what = (
            f"{_number(count, 'box', 'boxes')} on {name} say {other}; there are"
            f" {_number(objects, 'object')} of {name}."
        )
        action = (
            "Check the labels of both classes, and label more images that show the difference. If it does"
            f" not matter, join them: --rename {other}={name}."
        )
        findings.append(Finding(kind="confusion", what=what, action=action))
    return findings


def _above(facts: Facts) -> npt.NDArray[np.bool_]:
    """Mark the boxes (T,) that people look at."""
    above: npt.NDArray[np.bool_] = facts.matches.scores >= thresholds_of(
        facts.matches, facts.min_scores
    )
    return above


def _found(facts: Facts) -> npt.NDArray[np.bool_]:
    """Mark the objects (O,) that have a box that people look at."""
    matches = facts.matches
    found = np.zeros(len(matches.object_labels), bool)
    found[matches.objects[matches.correct & _above(facts)]] = True
    return found


def page(facts: Facts, findings: Sequence[Finding], source: str) -> str:
    """Write the findings as a page of Markdown.

    Args:
        source: what the images of `facts.matches` are, e.g. "validation images".
    """
    counts = at_score(facts.matches, facts.min_scores)
    lines = [
        "# What limits this detector",
        "",
        f"Measured on {len(facts.image_names)} {source} with"
        f" {_number(len(facts.matches.object_labels), 'object')}. From the operating points of the"
        f" checkpoint, {counts.true} boxes are right, {counts.false} are wrong and"
        f" {_number(counts.missed, 'object')} missed.",
        "",
    ]
    if not findings:
        lines.append("Nothing stands out. More labelled images and more steps help most detectors.")
    for number, finding in enumerate(findings, start=1):
        lines.append(f"{number}. {finding.what} **{finding.action}**")
    return "\n".join(lines) + "\n"


def _listing(names: Sequence[str]) -> str:
    """Join the first names, and count the others."""
    rest = len(names) - LISTED
    return ", ".join(names[:LISTED]) + (f" and {rest} more" if rest > 0 else "")


def _number(count: int, one: str, many: str | None = None) -> str:
    """Write a count with its noun."""
    return f"{count} {one if count == 1 else many or one + 's'}"
