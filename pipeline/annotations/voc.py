"""The PASCAL VOC format: one XML file an image, in VOC's folders or in folders like them.

    Annotations/x.xml  JPEGImages/x.jpg  ImageSets/Main/train.txt
    annotations/x.xml  images/x.jpg      (also annots/, xmls/, labels/; imgs/, data/)
    train_annots/x.xml train_images/x.jpg, validation_annots/... | train/annotations/x.xml train/images/x.jpg

An annotation belongs to the image with the same stem. If no list names the splits, the folders do.
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass

from pipeline.annotations.labelled import Annotations, Format, first_few
from pipeline.annotations.names import ALL, key_of, role_of_path, roles_differ, split_of_key
from pipeline.annotations.tree import Tree, composed, only_image, stem_of
from pipeline.annotations.voc_xml import read_pairs
from pipeline.errors import UserError
from pipeline.images import IMAGE_SUFFIXES

_SETS = ("ImageSets/Main", "ImageSets")
_TOP_LISTS = ("train", "val", "valid", "validation", "test", "trainval")
"""Lists that count at the top too, if they list images."""
_FLAGS = {"-1", "0", "1"}
"""What VOC's lists of one class write behind each image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pairs:
    """XML files and the images that belong to them."""

    annotations: dict[str, str]
    """Name -> path of the XML file."""
    images: dict[str, list[str]]
    """Name -> paths of the images."""
    splits: dict[str, str]
    """Name -> split that a folder names; `all` if none does."""
    twice: tuple[str, ...] = ()
    """Paths of XML files for an image that has one already."""


def _looks_like(tree: Tree) -> bool:
    """Whether XML files and images with the same stems lie in different folders."""
    if not tree.below("", (".xml",)) or _holds_devkits(tree):
        return False
    if tree.below("Annotations", (".xml",)) and tree.below("JPEGImages", IMAGE_SUFFIXES):
        return True
    pairs = _pair(tree)
    return any(
        posixpath.dirname(pairs.annotations[name]) != posixpath.dirname(paths[0])
        for name, paths in pairs.images.items()
        if name in pairs.annotations
    )


def _holds_devkits(tree: Tree) -> bool:
    """Whether folders are whole VOC data sets, such as VOC2007/ and VOC2012/: lists are for one alone."""
    inner = ["ImageSets" in path.split("/")[1:3] for path in tree.below("", (".txt",))]
    return any(inner) and not tree.below("ImageSets", (".txt",))


def _splits(tree: Tree) -> tuple[str, ...]:
    """List the splits in ImageSets/Main, without the lists of a single class (``dog_train``).

    Without such lists, list the splits that the folders name. VOC's folders then have the split `all` too.
    """
    pairs = _pair(tree)
    folder = _sets(tree, pairs)
    if folder is not None:
        names = {posixpath.splitext(posixpath.basename(p))[0] for p in _lists(tree, folder)}
        return tuple(sorted(n for n in names if n.rpartition("_")[2] not in names - {n}))
    named = {pairs.splits[name] for name in pairs.annotations if name in pairs.images}
    if "Annotations" in tree.folders:
        named.add(ALL)
    return tuple(sorted(named)) or (ALL,)


def _read(tree: Tree, split: str, limit: int | None) -> Annotations:
    """Read the images that ImageSets/Main/<split>.txt lists, or those in the folders of the split."""
    pairs = _pair(tree)
    folder = _sets(tree, pairs)
    if pairs.twice:
        raise UserError(
            tree.uri(pairs.twice[0]),
            "is for an image that another XML file is for too",
            f"Remove one of the two. Such files: {first_few(pairs.twice)}.",
        )
    if folder is None:
        wanted = {name for name, of in pairs.splits.items() if split in (of, ALL)}
        return read_all_pairs(
            tree,
            {name: path for name, path in pairs.annotations.items() if name in wanted},
            {name: paths for name, paths in pairs.images.items() if name in wanted},
            limit,
        )
    listed, problems = _read_list(tree, posixpath.join(folder, f"{split}.txt"))
    names = [_key_of_entry(entry, pairs) for entry in listed]
    for where, existing in (("annotations", set(pairs.annotations)), ("images", set(pairs.images))):
        absent = [name for name in names if name not in existing]
        if absent:
            raise UserError(
                f"split {split!r} of {tree.root}",
                f"lists images that are not in {_folder_of(tree, where)}: {first_few(absent)}",
                f"Add them, or remove them from {posixpath.join(folder, split)}.txt.",
            )
    found = [(only_image(tree, pairs.images[n]), pairs.annotations[n]) for n in names]
    return Annotations(read_pairs(tree, found, limit), None, tuple(problems))


def _folder_of(tree: Tree, kind: str) -> str:
    """Return the folder of the XML files or of the images, for messages."""
    names = {"annotations": "Annotations", "images": "JPEGImages"}
    return names[kind] if names[kind] in tree.folders else f"the folder of the {kind}"


def _pair(tree: Tree) -> _Pairs:
    """Give each XML file and each image a name that both share."""
    annotations = paths_by_name(tree.below("Annotations", (".xml",)), "Annotations")
    by_stem = tree.images_by_stem("JPEGImages")
    images = {name.removeprefix("JPEGImages/"): paths for name, paths in by_stem.items()}
    if annotations.keys() & images.keys() or (annotations and images and _set_folder(tree)):
        splits = {name: split_of_key(f"{name}.xml") or ALL for name in annotations | images}
        return _Pairs(annotations=annotations, images=images, splits=splits)
    return _pair_by_stem(tree)


def _pair_by_stem(tree: Tree) -> _Pairs:
    """Pair XML files and images by their path without the words that say what a folder holds.

    An XML file without a partner gets the only image with its stem, unless folders say that the two are of
    different splits.
    """
    annotations: dict[str, str] = {}
    twice = []
    for path in tree.below("", (".xml",)):
        if annotations.setdefault(key_of(path), path) != path:
            twice.append(path)
    images: dict[str, list[str]] = {}
    by_stem: dict[str, list[str]] = {}
    for path in tree.images():
        images.setdefault(key_of(path), []).append(path)
        by_stem.setdefault(posixpath.basename(stem_of(path)), []).append(path)
    for name, path in annotations.items():
        if name not in images:
            same = by_stem.get(posixpath.basename(name), [])
            same = [p for p in same if not roles_differ(role_of_path(path), role_of_path(p))]
            if len(same) == 1 and key_of(same[0]) not in annotations:
                images[name] = images.pop(key_of(same[0]), same)
    splits = {name: split_of_key(paths[0]) or ALL for name, paths in images.items()}
    splits |= {n: split_of_key(p) or splits.get(n, ALL) for n, p in annotations.items()}
    return _Pairs(annotations=annotations, images=images, splits=splits, twice=tuple(twice))


def _key_of_entry(entry: str, pairs: _Pairs) -> str:
    """Return the key of a line in a list. Some tools write ``a.jpg``, ``JPEGImages/a.jpg`` or ``a 1``."""
    name, _, flag = entry.rpartition(" ")
    if flag in _FLAGS and entry not in pairs.annotations:
        entry = name.strip()
    for key in (entry, key_of(f"{entry}.xml")):
        if key in pairs.annotations:
            return key
    entry = entry.replace("\\", "/").removeprefix("./")
    return key_of(entry if entry.lower().endswith((".xml", *IMAGE_SUFFIXES)) else f"{entry}.xml")


def _sets(tree: Tree, pairs: _Pairs) -> str | None:
    """Return the folder of the lists of images, empty for the top; None if there are none."""
    if (folder := _set_folder(tree)) is not None:
        return folder
    first = [next(iter(tree.read_text(path).split("\n")), "").strip() for path in _lists(tree, "")]
    known = [_key_of_entry(composed(line), pairs) in pairs.annotations for line in first if line]
    return "" if known and all(known) else None


def _set_folder(tree: Tree) -> str | None:
    return next((folder for folder in _SETS if _lists(tree, folder)), None)


def _lists(tree: Tree, folder: str) -> list[str]:
    paths = [p for p in tree.below(folder, (".txt",)) if posixpath.dirname(p) == folder]
    return paths if folder else [p for p in paths if posixpath.splitext(p)[0] in _TOP_LISTS]


def _read_list(tree: Tree, path: str) -> tuple[list[str], list[str]]:
    """Read a list of image names; return each name once, and the problems."""
    lines = [line.strip() for line in tree.read_text(path).splitlines()]
    names = [composed(name) for name in lines if name]
    if not names:
        raise UserError(tree.uri(path), "lists no image", "Give another --split.")
    unique = list(dict.fromkeys(names))
    if len(unique) == len(names):
        return unique, []
    repeated = len(names) - len(unique)
    return unique, [f"{tree.uri(path)}: ignored {repeated} repeated names; each image is read once"]


def paths_by_name(paths: list[str], folder: str) -> dict[str, str]:
    """Map each path's part below `folder`, without its suffix and in composed letters, to the path."""
    prefix = f"{folder}/" if folder else ""
    return {stem_of(path).removeprefix(prefix): path for path in paths}


def read_all_pairs(
    tree: Tree, annotations: dict[str, str], images: dict[str, list[str]], limit: int | None
) -> Annotations:
    """Read every image that has an XML file of the same name.

    Images without an XML file, and XML files without an image, are reported as problems.

    Args:
        tree: the data set.
        annotations: name -> path of the XML file.
        images: name -> paths of the images.
        limit: read only this many images, the first by path; None reads all.
    """
    problems = []
    without_image = [path for name, path in annotations.items() if name not in images]
    if without_image:
        problems.append(
            f"{tree.root}: XML files without an image, left out: {first_few(without_image)}"
        )
    unlabelled = [images[name][0] for name in images if name not in annotations]
    if unlabelled:
        problems.append(
            f"{tree.root}: images without an XML file, left out: {first_few(unlabelled)}"
        )
    pairs = [
        (only_image(tree, images[name]), path)
        for name, path in annotations.items()
        if name in images
    ]
    return Annotations(read_pairs(tree, pairs, limit), None, tuple(problems))


VOC = Format(
    name="voc",
    description="VOC (Annotations/ JPEGImages/)",
    looks_like=_looks_like,
    splits=_splits,
    read=_read,
    declares_classes=False,
)
