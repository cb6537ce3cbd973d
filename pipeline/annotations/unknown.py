"""Describes a folder whose layout is not known: what lies there, what is nearest to it, and what to do."""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Sequence

from pipeline.annotations.other_tools import Tool, tool_of
from pipeline.annotations.tree import Tree, stem_of
from pipeline.annotations.yolo_labels import NAME_FILES, is_label
from pipeline.errors import UserError
from pipeline.images import IMAGE_SUFFIXES

_SHOWN = 6
"""Groups of files that are named."""
_OPENED = 12
"""Files that are opened, to recognise other tools."""
_MOST_BYTES = 20_000_000
_ARCHIVES = (".zip", ".gz", ".tgz", ".tar", ".7z", ".rar", ".bz2", ".xz", ".zst")
_PHOTOS = (".nef", ".cr2", ".cr3", ".arw", ".dng", ".raf", ".psd", ".svg")
_VIDEOS = (".mp4", ".avi", ".mov", ".mkv")
_SHEETS = (".xlsx", ".xls", ".ods")
_NO_LABELS = (
    ".md",
    ".pdf",
    ".py",
    ".ipynb",
    ".sh",
    *_ARCHIVES,
    *_PHOTOS,
    *_VIDEOS,
    ".pt",
    ".pth",
    ".log",
    *IMAGE_SUFFIXES,
)


def unknown_layout(tree: Tree, known: Sequence[str]) -> UserError:
    """Make the error for a folder in no known layout.

    Args:
        known: the known layouts, one description each.
    """
    seen = _seen(tree)
    why = (
        f"holds no labelled images in a known layout. It holds {seen}" if seen else "holds no files"
    )
    if tool := _other_tool(tree):
        advice = f"The labels are those of {tool[0].name} ({tool[1]}). {tool[0].convert}"
    else:
        advice = _nearest(tree) or f"Expected {', '.join(known[:-1])} or {known[-1]}."
    return UserError(tree.root, why, f"{advice.rstrip('.')}. docs/labels.md shows each layout.")


def no_images(tree: Tree, layout: str) -> UserError:
    """Make the error for a data set whose labels are in a known layout, but whose images are not in it."""
    advice = _unread(tree, labelled=True) or (
        "Give the folder of the images too: --images-at FOLDER"
        if not tree.images()
        else "Move the images to images/, beside the folder labels/"
    )
    return UserError(
        tree.root,
        f"has {layout} labels, but no image where this layout has them. It holds {_seen(tree)}",
        f"{advice}. docs/labels.md shows each layout.",
    )


def _seen(tree: Tree) -> str:
    """Count the files by folder and suffix: ``200 .xml in annotations/ (200 of their stems in images/)``."""
    groups = Counter((_folder(path), posixpath.splitext(path)[1].lower()) for path in tree.paths)
    stems: dict[str, set[str]] = {}
    for path in tree.images():
        stems.setdefault(_folder(path), set()).add(posixpath.basename(stem_of(path)))
    parts = []
    for (folder, suffix), count in groups.most_common(_SHOWN):
        kind = suffix.lstrip(".").upper() or "files without suffix"
        text = f"{count} {kind} in {_cut(folder)}/" if folder else f"{count} {kind} at the top"
        if suffix not in _NO_LABELS:
            text += _shared_stems(tree, folder, suffix, stems)
        parts.append(text)
    if len(groups) > _SHOWN:
        parts.append(f"{len(groups) - _SHOWN} more kinds of files")
    return ", ".join(parts)


def _shared_stems(tree: Tree, folder: str, suffix: str, stems: dict[str, set[str]]) -> str:
    """Say in which folder the images with the stems of these files lie; empty if there are none."""
    own = {
        posixpath.basename(stem_of(path))
        for path in tree.paths
        if _folder(path) == folder and path.lower().endswith(suffix)
    }
    shared = {place: len(own & images) for place, images in stems.items()}
    place = max(shared, key=lambda place: shared[place], default="")
    if not shared.get(place):
        return ""
    return (
        f" ({shared[place]} of their stems among the images in {_cut(place) or 'the same folder'}/)"
    )


def _folder(path: str) -> str:
    """Return the first two folders of a path."""
    return "/".join(posixpath.dirname(path).split("/")[:2])


def _cut(text: str, most: int = 60) -> str:
    return text if len(text) <= most else f"{text[:most]}..."


def _other_tool(tree: Tree) -> tuple[Tool, str] | None:
    """Open some files that may be labels, one of each folder and suffix first; name the tool of one."""
    candidates: dict[tuple[str, str], list[str]] = {}
    for path in tree.paths:
        suffix = posixpath.splitext(path)[1].lower()
        if suffix not in _NO_LABELS and (tree.objects[path].size or 0) <= _MOST_BYTES:
            candidates.setdefault((posixpath.dirname(path), suffix), []).append(path)
    firsts = [paths[0] for paths in candidates.values()]
    seconds = [path for paths in candidates.values() for path in paths[1:3]]
    for path in [*firsts, *seconds][:_OPENED]:
        if tool := tool_of(path, tree.read(path)):
            return tool, _cut(path)
    return None


def _nearest(tree: Tree) -> str | None:
    """Say which known layout is nearest, and what it lacks."""
    suffixes = Counter(posixpath.splitext(path)[1].lower() for path in tree.paths)
    labelled = bool(tree.below("", (".xml", ".json", ".txt", ".csv", ".tsv", ".yaml")))
    if advice := _unread(tree, labelled=labelled):
        return advice
    if not tree.images():
        if suffixes[".xml"] or suffixes[".json"] or suffixes[".txt"] or suffixes[".csv"]:
            return "There is no image. Give the folder of the images too: --images-at FOLDER"
        return None
    if suffixes[".xml"]:
        return (
            "The nearest layout is VOC, but no XML file has the stem of an image."
            " Give both the same name: annotations/x.xml for images/x.jpg"
        )
    if table := next(iter(tree.below("", (".csv", ".tsv"))), None):
        head = _cut(tree.read_line(table), 100)
        return (
            f"The nearest layout is a CSV table, but {_cut(table)} begins with {head!r}."
            " Expected a first line with the columns filename,class,xmin,ymin,xmax,ymax"
        )
    stems = {posixpath.basename(stem_of(path)) for path in tree.images()}
    texts = [p for p in tree.below("", (".txt",)) if posixpath.basename(stem_of(p)) in stems]
    if any(is_label(path) for path in texts):
        return _nearest_yolo(tree, next(path for path in texts if is_label(path)))
    if tree.below("", (".yaml", ".yml")) and not suffixes[".json"]:
        return (
            "The nearest layout is YOLO, but the data set has no label files."
            " Add labels/x/a.txt for images/x/a.jpg"
        )
    if suffixes[".json"]:
        path = tree.below("", (".json",))[0]
        return (
            f"The nearest layout is COCO, but {_cut(path)} has no lists of images, annotations and"
            " categories. Export the labels in COCO's format"
        )
    if len(_image_folders(tree)) > 1:
        return (
            "There are images, but no boxes. Folders named as classes are for classification:"
            " draw boxes with a labelling tool, and export them as COCO, VOC or YOLO"
        )
    return None


def _unread(tree: Tree, *, labelled: bool) -> str | None:
    """Say what to do with files that must be unpacked or converted before anything can be read; else None."""
    archives, photos = tree.below("", _ARCHIVES), tree.below("", _PHOTOS)
    videos, sheets = tree.below("", _VIDEOS), tree.below("", _SHEETS)
    if archives and not (labelled and tree.images()):
        return f"Unpack {_cut(archives[0])} first, and give the folder"
    if not tree.images() and (photos or videos):
        path = (photos or videos)[0]
        return f"{_cut(path)} is no image that is read. Convert such files to JPEG or PNG first"
    if sheets and not labelled:
        return (
            f"Save {_cut(sheets[0])} as CSV, with a first line filename,class,xmin,ymin,xmax,ymax"
        )
    return None


def _nearest_yolo(tree: Tree, label: str) -> str:
    """Say what a folder of YOLO's label files lacks: a list of class names, or folders with equal names."""
    start = f"The nearest layout is YOLO ({_cut(label)}), but "
    lists = [p for p in tree.below("", (".yaml", ".yml", ".names", ".txt")) if _lists_names(p)]
    top = [path for path in lists if "/" not in path]
    if top:
        return (
            f"{start}the label files are not where {top[0]} needs them. Write labels/x/a.txt for"
            " images/x/a.jpg, or put both into one folder"
        )
    if lists:
        return f"{start}{_cut(lists[0])} must lie at the top. Move it there"
    return (
        f"{start}there is no list of class names."
        " Add data.yaml with names: [cat, dog], or classes.txt with one name a line"
    )


def _lists_names(path: str) -> bool:
    name = posixpath.basename(path)
    return name in NAME_FILES or name.lower().endswith((".yaml", ".yml", ".names"))


def _image_folders(tree: Tree) -> set[str]:
    return {posixpath.dirname(path) for path in tree.images()}


def several_data_sets(tree: Tree, folders: Sequence[str]) -> UserError:
    """Make the error for a folder that holds several data sets."""
    shown = ", ".join(re.sub(r"/$", "", tree.root + folder) for folder in folders[:5])
    return UserError(
        tree.root,
        f"holds {len(folders)} data sets, each in a folder",
        f"Give one of them: {shown}.",
    )
