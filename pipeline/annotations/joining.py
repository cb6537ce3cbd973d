"""Joins the splits of several data sets: each image once, with an id that no other image has."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import replace

from pipeline.annotations.labelled import Annotations, NamedImage, first_few
from pipeline.errors import UserError


def join(
    parts: Sequence[Annotations], roots: Sequence[str], rename: Mapping[str, str] | None = None
) -> Annotations:
    """Join one split of each data set. The classes keep the order of the first set that has them.

    Args:
        parts: one for each data set.
        roots: the URI of each data set.
        rename: other names for classes; two names that become one count as equal here.

    Raises:
        UserError: two sets have one image with different labels.
    """
    if len(parts) == 1:
        return parts[0]
    images, twice = _each_once(parts, rename or {})
    problems = [problem for part in parts for problem in part.problems]
    if twice:
        problems.append(
            f"images in two of the data sets, with equal labels, are used once: {first_few(twice)}"
        )
    return Annotations(
        images=_with_unique_ids(images, roots),
        names=_names(parts),
        problems=tuple(problems),
        bad=tuple(one for part in parts for one in part.bad),
    )


def _names(parts: Sequence[Annotations]) -> tuple[str, ...] | None:
    """Return the classes of all sets; None if none of them declares any."""
    if all(part.names is None for part in parts):
        return None
    used = [sorted({box.name for i in part.images for box in i.boxes}) for part in parts]
    declared = [
        u if part.names is None else part.names for part, u in zip(parts, used, strict=True)
    ]
    return tuple(dict.fromkeys(name for names in declared for name in names))


def _each_once(
    parts: Sequence[Annotations], rename: Mapping[str, str]
) -> tuple[list[tuple[NamedImage, int]], list[str]]:
    """Return each image and the number of its set, and the URIs of the images that two sets have."""
    first: dict[str, tuple[NamedImage, int]] = {}
    twice = []
    for number, part in enumerate(parts):
        for image in part.images:
            known, _ = first.setdefault(image.image_uri, (image, number))
            if known is image:
                continue
            if _labels(known, rename) != _labels(image, rename):
                raise UserError(
                    image.image_uri,
                    f"is in two of the data sets, with different labels: {known.annotation_uri} and"
                    f" {image.annotation_uri}",
                    "Remove one of the two, or leave out one of the data sets.",
                )
            twice.append(image.image_uri)
    return list(first.values()), twice


def _labels(image: NamedImage, rename: Mapping[str, str]) -> tuple[object, ...]:
    """Return what two sets must agree on: the boxes in any order, and the number of bad labels."""
    boxes = sorted((rename.get(b.name, b.name), b.box, b.crowd) for b in image.boxes)
    return boxes, len(image.bad), image.size


def _with_unique_ids(
    images: Sequence[tuple[NamedImage, int]], roots: Sequence[str]
) -> tuple[NamedImage, ...]:
    """Put the name of its data set before each id, if an id occurs twice."""
    if len({image.image_id for image, _ in images}) == len(images):
        return tuple(image for image, _ in images)
    names = _short_names(roots)
    return tuple(
        replace(image, image_id=f"{names[number]}/{image.image_id}") for image, number in images
    )


def _short_names(roots: Sequence[str]) -> list[str]:
    """Name each data set by its folder; if two are equal, by the folders in which their paths differ."""
    names = [posixpath.basename(root) for root in roots]
    if len(set(names)) == len(names):
        return names
    paths = [f"/{root.replace('://', '/').lstrip('/')}" for root in roots]
    common = posixpath.commonpath(paths)
    return [path.removeprefix(common).strip("/") or str(n) for n, path in enumerate(paths, 1)]
