"""The fold of an image depends on seed and path alone."""

from __future__ import annotations

from collections import Counter

import pytest

from pipeline.annotations.folds import fold_of

NUMBERED = [f"images/{k:03d}.jpg" for k in range(200)]
NAMED = [f"{k * 7919 % 10007:x}-photo.jpg" for k in range(600)]


@pytest.mark.parametrize("folds", [2, 3, 5])
@pytest.mark.parametrize("paths", [NUMBERED, NAMED])
def test_folds_are_about_equal_and_hold_every_image_once(paths: list[str], folds: int) -> None:
    sizes = Counter(fold_of(path, seed=3, folds=folds) for path in paths)
    assert sorted(sizes) == list(range(1, folds + 1))
    assert max(sizes.values()) - min(sizes.values()) <= len(paths) / folds * 0.7


def test_the_seed_divides_anew() -> None:
    first = [fold_of(path, seed=3, folds=2) for path in NAMED]
    assert first == [fold_of(path, seed=3, folds=2) for path in NAMED]
    same = sum(a == fold_of(path, seed=4, folds=2) for a, path in zip(first, NAMED, strict=True))
    assert 0.4 < same / len(NAMED) < 0.6


def test_a_name_is_one_name_in_both_spellings_of_its_accents() -> None:
    assert fold_of("caf\u00e9.jpg", seed=1, folds=1000) == fold_of(
        "cafe\u0301.jpg", seed=1, folds=1000
    )
