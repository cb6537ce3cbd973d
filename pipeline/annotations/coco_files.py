"""Finds the JSON files of a COCO data set, and the split of each."""

from __future__ import annotations

import posixpath
import re

from pipeline.annotations.names import ALL, split_of_file
from pipeline.annotations.other_tools import tool_of_json
from pipeline.annotations.tree import Tree, decoded

# If two files are for one split, the file that matches the earlier pattern is read.
_NAMES = tuple(
    re.compile(pattern)
    for pattern in (
        r"annotations/instances_(?P<split>[^/]+)\.json",
        r"(?P<split>[^/]+)/_annotations\.coco\.json",
        r"instances_(?P<split>[^/]+)\.json",
        r"annotations/(?P<split>[^/]+)\.json",
        r"(?!annotations/)(?P<split>[^/]+)/annotations\.json",
    )
)
_CERTAIN = 3
"""The first patterns are names that only COCO data sets use. Other files are opened."""
_OTHER_TASKS = re.compile(r"(?:captions|person_keypoints|panoptic|stuff|image_info)_.*")
_MOST_PER_FOLDER = 20
"""With more JSON files in one folder, each is for one image: another format."""
_PEEK_BYTES = 4_000_000
"""A larger file is not opened to recognise it."""
_SECTION = re.compile(rb'"(?:images|annotations)"\s*:\s*\[')
"""Label Studio's notes.json has only `categories`."""


def find_files(tree: Tree) -> dict[str, str]:
    """Map each split to the path of its JSON file."""
    ranked: dict[str, tuple[int, str]] = {}
    per_folder: dict[str, int] = {}
    paths = [path for path in tree.below("", (".json",)) if path.count("/") <= 3]
    for path in paths:
        per_folder[posixpath.dirname(path)] = per_folder.get(posixpath.dirname(path), 0) + 1
    for path in paths:
        rank, split = _name(tree, path)
        many = per_folder[posixpath.dirname(path)] > _MOST_PER_FOLDER
        if split is None or (rank >= _CERTAIN and (many or not _opens_as_coco(tree, path, rank))):
            continue
        ranked[split] = min((rank, path), ranked.get(split, (rank, path)))
    return {split: path for split, (_, path) in ranked.items()}


def _name(tree: Tree, path: str) -> tuple[int, str | None]:
    """Return the rank of the pattern that a path matches, and the split; no split for other tasks."""
    stem = posixpath.splitext(posixpath.basename(path))[0]
    if _OTHER_TASKS.fullmatch(stem):
        return len(_NAMES), None
    for rank, pattern in enumerate(_NAMES):
        if match := pattern.fullmatch(path):
            return rank, match["split"]
    if stem in tree.folders and "/" not in path:
        return len(_NAMES), stem
    split = split_of_file(path)
    return len(_NAMES) + 1, stem if split != ALL and "/" not in path else split


def _opens_as_coco(tree: Tree, path: str, rank: int) -> bool:
    """Whether the content of a file is that of COCO.

    If the name fits COCO, a file counts unless it is that of another tool: a broken file is then reported.
    """
    if (tree.objects[path].size or 0) > _PEEK_BYTES:
        return True
    data = _utf8(tree.read(path)).lstrip(b"\xef\xbb\xbf \t\r\n")
    if rank <= len(_NAMES):
        return tool_of_json(data) is None and not data.startswith(b"[")
    return (
        data.startswith(b"{") and _SECTION.search(data) is not None and tool_of_json(data) is None
    )


def _utf8(data: bytes) -> bytes:
    """Write JSON in UTF-16 as UTF-8. Bytes that are no text stay: the reader reports them."""
    try:
        return decoded(data).encode()
    except UnicodeError:
        return data
