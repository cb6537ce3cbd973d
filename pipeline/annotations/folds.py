"""Folds of a data set: each image belongs to one of K folds by a hash of a seed and its path.

The result depends on nothing else, so every training of the same folds divides alike, and images that are
added later move no other image. The sizes of the folds are close to each other, not equal.
"""

from __future__ import annotations

import hashlib
import posixpath
import re

from pipeline.annotations.tree import composed

_SALT = "folds"
_STEP = 2**0.5 - 1
"""Numbered images move by this step. It is no multiple of the step of --val-fraction, so each fold holds its
share of the images that are held out."""
_NUMBER = re.compile(r"\d{1,12}(?=\D*$)")


def fold_of(path: str, *, seed: int, folds: int) -> int:
    """Return the fold of an image, from 1 to `folds`.

    Args:
        path: of the image, below its data set.
        seed: the --seed of the trainings.
    """
    return 1 + int(spread_position(path, f"{_SALT}\n{seed}", _STEP) * folds)


def spread_position(path: str, salt: str, step: float) -> float:
    """Return a number from 0 to below 1 that depends on nothing but the arguments.

    The last number in the name moves a hash of the rest by `step`, an irrational number. Numbered images are
    then spread evenly: of 40 images, a fifth is 8 or, less often, 7 or 9. With a plain hash it is 3 to 13.
    """
    stem = posixpath.splitext(composed(path))[0]
    match = _NUMBER.search(stem)
    number = int(match[0]) if match else 0
    rest = f"{stem[: match.start()]}#{stem[match.end() :]}" if match else stem
    digest = hashlib.sha256(f"{salt}\n{rest}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") / 2**64 + step * number) % 1
