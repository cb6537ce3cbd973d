"""Matches labelled images with scored images, also if the two lie in different folders."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from pipeline.errors import UserError
from pipeline.storage import basename


def match_images(labelled: Sequence[str], scored: Sequence[str], run: str) -> list[int]:
    """Return the position of each labelled image in `scored`.

    If the full URI of any labelled image occurs in `scored`, the labels describe exactly the scored objects.
    Then only full URIs are compared, because a file of the same name in another folder is another image.
    Otherwise the ends of the paths are compared: the file name, and the longest common end if several scored
    images have this file name.

    Args:
        labelled: URIs of the labelled images.
        scored: URIs of the images of the run, each once.
        run: the name of the run in error messages.

    Raises:
        UserError: a labelled image has no row, or matches several rows.
    """
    matches = find_matches(labelled, scored)
    missing = [uri for uri, number in zip(labelled, matches, strict=True) if number is None]
    if missing:
        raise UserError(
            missing[0],
            f"has no row in {run}; {len(missing)} of the {len(labelled)} labelled images have none",
            "Score them (jobs/score_bucket.py), or give the --split that was scored.",
        )
    return [number for number in matches if number is not None]


def find_matches(labelled: Sequence[str], scored: Sequence[str]) -> list[int | None]:
    """Return the position of each image of one list in another list, as `match_images` finds it.

    Raises:
        UserError: an image matches several.
    """
    positions = {uri: number for number, uri in enumerate(scored)}
    if any(uri in positions for uri in labelled):
        return [positions.get(uri) for uri in labelled]
    return _match_ends(labelled, scored)


def _match_ends(labelled: Sequence[str], scored: Sequence[str]) -> list[int | None]:
    by_name: dict[str, list[int]] = defaultdict(list)
    for number, uri in enumerate(scored):
        by_name[basename(uri)].append(number)
    matches = [_longest_end(uri, by_name.get(basename(uri), []), scored) for uri in labelled]
    labelled_by_match: dict[int, str] = {}
    for uri, match in zip(labelled, matches, strict=True):
        if match is not None and labelled_by_match.setdefault(match, uri) != uri:
            raise UserError(
                scored[match],
                f"may be {labelled_by_match[match]} or {uri}",
                "Give --data with the folder that was scored, so that full URIs match.",
            )
    return matches


def _longest_end(uri: str, same_name: Sequence[int], scored: Sequence[str]) -> int | None:
    """Return the position in `same_name` whose URI shares the longest end with `uri`."""
    if len(same_name) < 2:
        return same_name[0] if same_name else None
    lengths = [_common_end(uri, scored[number]) for number in same_name]
    best = [n for n, length in zip(same_name, lengths, strict=True) if length == max(lengths)]
    if len(best) > 1:
        raise UserError(
            uri,
            f"may be {scored[best[0]]} or {scored[best[1]]}",
            "Give --data with the folder that was scored, so that full URIs match.",
        )
    return best[0]


def _common_end(a: str, b: str) -> int:
    """Count the path parts that two URIs share at their ends."""
    parts = list(zip(reversed(a.split("/")), reversed(b.split("/")), strict=False))
    return next((n for n, (x, y) in enumerate(parts) if x != y), len(parts))
