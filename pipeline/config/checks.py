"""Checks of flags that several configs share. Each raises UserError with a message of one line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from pipeline.errors import UserError
from pipeline.runtime.flags import names_a_place

OnBadLabel = Literal["refuse", "skip", "clip"]
"""What to do with a label that cannot be right."""


def require(condition: bool, what: str, why: str, advice: str) -> None:
    """Raise UserError unless the condition is true.

    Args:
        what: the flag and its value.
        why: what is wrong with it, or what was expected.
        advice: what to do.
    """
    if not condition:
        raise UserError(what, why, advice)


def check_samples(config: object) -> None:
    """Raise UserError if --range is not two rising numbers, or --bands not three numbers from 1."""
    limits, bands = getattr(config, "range"), getattr(config, "bands")  # noqa: B009  # several configs have them
    if limits is not None:
        low, high = limits
        require(
            math.isfinite(low) and math.isfinite(high) and low < high,
            f"--range {low:g} {high:g}",
            "expected two finite numbers, the smaller one first",
            "Give the sample that becomes black, then the sample that becomes white.",
        )
    if bands is not None:
        require(
            all(1 <= band <= MOST_BANDS for band in bands),
            f"--bands {' '.join(map(str, bands))}",
            f"expected three numbers from 1 to {MOST_BANDS}",
            "Give the bands for red, green and blue. The first band is 1.",
        )


MOST_BANDS = 4096
"""The largest number of a band: as many as an image may have."""
MOST = 2**31 - 1
"""The largest count that a flag takes."""
MOST_BYTES = 2**63 - 1
MOST_DETECTIONS = 32_000
"""Boxes of an image at most (`fastrcnn.tiled_detection`)."""
LEAST_TILE, MOST_TILE = 32, 100_000
"""Sides of tiles, pixels (`fastrcnn.config.ranges.TileSide`)."""
MOST_OVERLAP = 0.8
"""The largest overlap of tiles (`fastrcnn.config.ranges.TileOverlap`)."""
MOST_GIB = 1_000_000
MOST_SECONDS = 366 * 24 * 3600
LEAST_GIB = 0.001
"""The least memory for DuckDB: about one MiB."""


def check_above_zero(config: object, *names: str, most: float = MOST) -> None:
    """Raise UserError for the first of these fields that is not above 0 and at most `most`. None is
    allowed."""
    for name in names:
        value = getattr(config, name)
        flag = f"--{name.replace('_', '-')} {value}"
        within = value is None or 0 < value <= most
        require(within, flag, f"must be above 0 and at most {most}", "Give another number.")


def check_tiles(config: object) -> None:
    """Raise UserError if --tile of a scoring job is neither 0 nor a side, or --tile-overlap is no share."""
    side, overlap = getattr(config, "tile"), getattr(config, "tile_overlap")  # noqa: B009  # several configs have them
    require(
        side is None or side == 0 or LEAST_TILE <= side <= MOST_TILE,
        f"--tile {side}",
        f"expected 0, or a side from {LEAST_TILE} to {MOST_TILE} pixels",
        "Give another number.",
    )
    require(
        overlap is None or 0 <= overlap <= MOST_OVERLAP,
        f"--tile-overlap {overlap}",
        f"expected a share of the side, from 0 to {MOST_OVERLAP}",
        "Give another number.",
    )
    require(
        not (side == 0 and overlap is not None),
        f"--tile 0 --tile-overlap {overlap}",
        "without tiles there is no overlap",
        "Leave out one of the two.",
    )


def check_memory(config: object) -> None:
    """Raise UserError if --memory-gib is too little or too much for DuckDB."""
    value = getattr(config, "memory_gib")  # noqa: B009  # several configs have this field
    require(
        LEAST_GIB <= value <= MOST_GIB,
        f"--memory-gib {value}",
        f"must be above 0: from {LEAST_GIB} to {MOST_GIB}",
        "Give another number.",
    )


def check_seeds(name: str, *seeds: int, least: int = 0) -> None:
    """Raise UserError for the first seed that the random number generators do not take.

    Args:
        name: the flag, e.g. --seed.
        least: the smallest seed.
    """
    for seed in seeds:
        require(
            least <= seed < 2**63,
            f"{name} {seed}",
            f"expected an integer from {'-2**63' if least else 0} to 2**63 - 1",
            "Give another seed.",
        )


def check_uris(config: object, *names: str) -> None:
    """Raise UserError for the first of these fields that is empty or a scheme only.

    `s3://` without a bucket would be used as a local folder.
    """
    for name in names:
        value = getattr(config, name)
        require(
            names_a_place(value),
            f"--{name.replace('_', '-')} {value!r}",
            "expected a path or a URI",
            "Give a local path, or a URI such as s3://bucket/prefix.",
        )


def check_not_negative(config: object, *names: str, most: float = MOST) -> None:
    """Raise UserError for the first of these fields that is not from 0 to `most`. None is allowed."""
    for name in names:
        value = getattr(config, name)
        flag = f"--{name.replace('_', '-')} {value}"
        within = value is None or 0 <= value <= most
        expected = f"expected 0 or more, and at most {most}"
        require(within, flag, expected, "Give another number.")


def as_tuple(value: str | Sequence[str]) -> tuple[str, ...]:
    """Return the values of --data. Programs may give one as text."""
    if isinstance(value, str):
        return (value,) if value else ()
    return tuple(value)


def check_gpus_per_worker(gpus: float | None) -> None:
    """Raise UserError for GPUs that Ray gives no worker: it gives fractions of one GPU, or whole GPUs."""
    require(
        gpus is None or (0 <= gpus <= 1000 and (gpus <= 1 or gpus == int(gpus))),
        f"--gpus-per-worker {gpus}",
        "expected 0 or more: a share of one GPU, or a whole number of GPUs, at most 1000",
        "Give another number.",
    )


def check_labels(config: object) -> None:
    """Raise UserError unless --data or --annotations with --images-at names the labelled images."""
    sets, annotations, images_at = (
        getattr(config, name) for name in ("data", "annotations", "images_at")
    )
    sets = as_tuple(sets)  # calibrate takes one as text
    data = " ".join(sets)
    for uri in sets:
        require(
            names_a_place(uri),
            f"--data {uri!r}",
            "expected a path or a URI",
            "Give a local path, or a URI such as s3://bucket/prefix.",
        )
    apart = [f"--{n} {v}" for n, v in (("annotations", annotations), ("images-at", images_at)) if v]
    require(
        len(sets) < 2 or not apart,
        f"--data {data} {' '.join(apart)}",
        "several data sets were given, and labels that lie apart from their images",
        "Give one data set, or copy labels and images together.",
    )
    require(
        bool(data or annotations),
        "--data",
        "is required and missing",
        "Give the folder of the labelled images, or --annotations FILE --images-at FOLDER.",
    )
    require(
        not (data and annotations and images_at),
        f"--data {data} --annotations {annotations} --images-at {images_at}",
        "name the images twice",
        "Leave out --data: the labels are in --annotations, the images in --images-at.",
    )
    require(
        not annotations or bool(images_at or data),
        f"--annotations {annotations}",
        "does not say where the images are",
        "Add --images-at FOLDER.",
    )


def label_sets(config: object) -> tuple[tuple[str, str | None], ...]:
    """Return where each data set has its labels, and the folder of its images if they lie apart."""
    sets, annotations, images_at = (
        getattr(config, name) for name in ("data", "annotations", "images_at")
    )
    if annotations:
        return ((annotations, images_at or sets[0]),)
    return tuple((uri, images_at) for uri in sets)


def image_roots(config: object) -> tuple[str, ...]:
    """Return the folders below which the images lie: one for each data set."""
    return tuple(images_at or uri for uri, images_at in label_sets(config))


def check_renames(given: Sequence[str]) -> None:
    """Raise UserError for the first value of --rename that is not OLD=NEW, or renames a class again."""
    seen: set[str] = set()
    for text in given:
        old, _, new = (part.strip() for part in text.partition("="))
        require(
            bool(old and new),
            f"--rename {text}",
            "expected OLD=NEW",
            "Write the name in the data set, an equals sign and the new name.",
        )
        require(
            old not in seen,
            f"--rename {text}",
            f"class {old!r} gets two new names",
            "Rename each class once.",
        )
        seen.add(old)


def renames(given: Sequence[str]) -> dict[str, str]:
    """Return --rename as old name -> new name."""
    pairs = (text.split("=", 1) for text in given)
    return {old.strip(): new.strip() for old, new in pairs}


def check_fractions(val: float | None, test: float | None, val_split: str | None) -> None:
    """Raise UserError if a share of held-out images is not from 0 to below 1, or nothing is left to train."""
    for name, value in (("val", val), ("test", test)):
        require(
            value is None or 0 <= value < 1,
            f"--{name}-fraction {value}",
            "expected a share of the images, from 0 to below 1",
            f"Give a number such as --{name}-fraction 0.2.",
        )
    require(
        (val or 0) + (test or 0) < 1,
        f"--val-fraction {val} --test-fraction {test}",
        "leave no image to train on",
        "Give shares whose sum is below 1.",
    )
    require(
        not val or val_split is None,
        f"--val-fraction {val} --val-split {val_split}",
        "both say what to validate on",
        "Give one of them.",
    )


MOST_FOLDS = 1000
"""The largest --folds."""


def check_folds(folds: int | None, fold: int | None) -> None:
    """Raise UserError unless --folds and --fold are both missing, or name one of two folds or more."""
    if folds is None and fold is None:
        return
    require(
        folds is not None and fold is not None,
        f"--folds {folds}" if fold is None else f"--fold {fold}",
        "is given without " + ("--fold" if fold is None else "--folds"),
        "Give both, such as --folds 2 --fold 1.",
    )
    assert folds is not None
    assert fold is not None
    require(
        2 <= folds <= MOST_FOLDS,
        f"--folds {folds}",
        f"expected 2 to {MOST_FOLDS} folds",
        "Give another number, such as --folds 2.",
    )
    require(
        1 <= fold <= folds,
        f"--folds {folds} --fold {fold}",
        f"expected a fold from 1 to {folds}",
        "The first fold is --fold 1.",
    )


def check_share(value: float) -> None:
    """Raise UserError if the value of --max-failures is not a share."""
    require(
        0 <= value <= 1,
        f"--max-failures {value}",
        "expected a share of the images, from 0 to 1",
        "Give another number.",
    )
