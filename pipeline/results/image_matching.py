"""Which scored image is which labelled one, where the two lie in different places."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from pipeline.errors import UserError
from pipeline.storage import basename


def match_images(labelled: Sequence[str], scored: Sequence[str], run: str) -> list[int]:
    """The number of each labelled image in `scored`, both by URI.

    Where some image is found under its full URI, the labels lie beside the very images that were scored and
    only full URIs count: another folder's file of the same name is another image. Otherwise images are known
    by how their paths end: by the file name, or, where several have it, by the longest common end.

    Args:
        labelled: URIs of the images with labels.
        scored: URIs of the images of the run, each once.
        run: what to call the run in errors.

    Raises:
        UserError: an image without a row, or one that could be several.
    """
    rows = {uri: number for number, uri in enumerate(scored)}
    if any(uri in rows for uri in labelled):
        found = [rows.get(uri) for uri in labelled]
    else:
        found = _match_ends(labelled, scored)
    missing = [uri for uri, number in zip(labelled, found, strict=True) if number is None]
    if missing:
        raise UserError(
            missing[0],
            f"has no row in {run}, as {len(missing)} of the {len(labelled)} labelled images",
            "Score them (jobs/score_bucket.py), or give the --split that was scored.",
        )
    return [number for number in found if number is not None]


def _match_ends(labelled: Sequence[str], scored: Sequence[str]) -> list[int | None]:
    by_name: dict[str, list[int]] = defaultdict(list)
    for number, uri in enumerate(scored):
        by_name[basename(uri)].append(number)
    found = [_longest_end(uri, by_name.get(basename(uri), []), scored) for uri in labelled]
    taken: dict[int, str] = {}
    for uri, match in zip(labelled, found, strict=True):
        if match is not None and taken.setdefault(match, uri) != uri:
            raise UserError(
                scored[match],
                f"may be {taken[match]} or {uri}",
                "Give --data at the place that was scored, so that full URIs match.",
            )
    return found


def _longest_end(uri: str, candidates: Sequence[int], scored: Sequence[str]) -> int | None:
    if len(candidates) < 2:
        return candidates[0] if candidates else None
    lengths = [_common_end(uri, scored[number]) for number in candidates]
    best = [n for n, length in zip(candidates, lengths, strict=True) if length == max(lengths)]
    if len(best) > 1:
        raise UserError(
            uri,
            f"may be {scored[best[0]]} or {scored[best[1]]}",
            "Give --data at the place that was scored, so that full URIs match.",
        )
    return best[0]


def _common_end(a: str, b: str) -> int:
    """How many path parts two URIs share, counted from the end."""
    parts = list(zip(reversed(a.split("/")), reversed(b.split("/")), strict=False))
    return next((n for n, (x, y) in enumerate(parts) if x != y), len(parts))
