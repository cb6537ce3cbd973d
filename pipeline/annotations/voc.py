"""PASCAL VOC's XML, in VOC's folders.

    Annotations/x.xml  JPEGImages/x.jpg  ImageSets/Main/train.txt

The image of an annotation is the one with its stem; <filename> and <path> are not asked, they name files of
the annotator's machine. Corners are 1-based and inclusive: (xmin - 1, ymin - 1, xmax, ymax). Boxes must lie
in <size>, unless that is zero, as tools write it that did not look.
"""

from __future__ import annotations

import posixpath
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from pipeline.annotations.labelled import Annotations, Format, NamedBox, NamedImage, finite, some
from pipeline.annotations.tree import Tree, only_image, unique_ids
from pipeline.errors import UserError
from pipeline.prefetch import in_threads

_SETS = "ImageSets/Main"
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
ALL = "all"
"""The one split of a data set that names none."""


def _looks_like(tree: Tree) -> bool:
    """Whether there are annotations where VOC has them."""
    return bool(tree.below("Annotations", (".xml",)))


def _splits(tree: Tree) -> tuple[str, ...]:
    """Names of the lists in ImageSets/Main, those of single classes (``dog_train``) left out."""
    names = {
        posixpath.splitext(p)[0].removeprefix(f"{_SETS}/") for p in tree.below(_SETS, (".txt",))
    }
    named = sorted(n for n in names if n.rpartition("_")[2] not in names - {n})
    return tuple(named) or (ALL,)


def _read(tree: Tree, split: str, limit: int | None) -> Annotations:
    """The images that ImageSets/Main/<split>.txt lists."""
    annotations = by_name(tree.below("Annotations", (".xml",)), "Annotations")
    images = {
        k.removeprefix("JPEGImages/"): v for k, v in tree.images_by_stem("JPEGImages").items()
    }
    if f"{_SETS}/{split}.txt" not in tree.known:
        return read_all(tree, annotations, images, limit)
    listed, problems = _listed(tree, f"{_SETS}/{split}.txt")
    for folder, there in (("Annotations", set(annotations)), ("JPEGImages", set(images))):
        absent = [name for name in listed if name not in there]
        if absent:
            raise UserError(
                f"split {split!r} of {tree.root}",
                f"lists images that are not in {folder}: {some(absent)}",
                f"Add them, or take them out of {_SETS}/{split}.txt.",
            )
    pairs = [(only_image(images[name], tree.root), annotations[name]) for name in listed]
    return Annotations(_read_pairs(tree, pairs, limit), None, tuple(problems))


def _listed(tree: Tree, path: str) -> tuple[list[str], list[str]]:
    """Names in the list, each once, and problems."""
    lines = [line.strip() for line in tree.read_text(path).splitlines()]
    names = [name for name in lines if name]
    if not names:
        raise UserError(tree.uri(path), "lists no image", "Choose another --split.")
    once = list(dict.fromkeys(names))
    if len(once) == len(names):
        return once, []
    return once, [f"{tree.uri(path)}: {len(names) - len(once)} images listed again; taken once"]


def by_name(paths: list[str], folder: str) -> dict[str, str]:
    """Path below `folder`, without its suffix -> path."""
    prefix = f"{folder}/" if folder else ""
    return {posixpath.splitext(path)[0].removeprefix(prefix): path for path in paths}


def read_all(
    tree: Tree, annotations: dict[str, str], images: dict[str, list[str]], limit: int | None
) -> Annotations:
    """Read every image that has an XML file of its name; the others of either kind are problems.

    Args:
        tree: the data set.
        annotations: name -> XML file.
        images: name -> images.
        limit: read only the first images by path.
    """
    problems = []
    alone = [path for name, path in annotations.items() if name not in images]
    if alone:
        problems.append(f"{tree.root}: XML files without an image, left out: {some(alone)}")
    unlabelled = [images[name][0] for name in images if name not in annotations]
    if unlabelled:
        problems.append(
            f"{tree.root}: images without XML, left out as unlabelled: {some(unlabelled)}"
        )
    pairs = [
        (only_image(images[name], tree.root), path)
        for name, path in annotations.items()
        if name in images
    ]
    return Annotations(_read_pairs(tree, pairs, limit), None, tuple(problems))


def _read_pairs(
    tree: Tree, pairs: list[tuple[str, str]], limit: int | None
) -> tuple[NamedImage, ...]:
    """(image, XML) paths -> images; only the first `limit` by image path are read."""
    ids = dict(zip(pairs, unique_ids([image for image, _ in pairs]), strict=True))

    def read(pair: tuple[str, str]) -> NamedImage:
        image, annotation = pair
        uri = tree.uri(annotation)
        root = _parse(tree.read(annotation), uri)
        return NamedImage(tree.uri(image), uri, ids[pair], _objects(root, uri), _size(root, uri))

    return tuple(in_threads(read, sorted(pairs)[:limit]))


def parse_voc_xml(data: bytes, uri: str) -> tuple[NamedBox, ...]:
    """The objects of one annotation.

    Raises:
        UserError: not XML, XML with entities or of another kind, an object without name or box, a coordinate
            that is no number.
    """
    return _objects(_parse(data, uri), uri)


def _parse(data: bytes, uri: str) -> Element:
    try:
        root: Element = fromstring(data)
    except DefusedXmlException as error:
        raise UserError(uri, f"XML with entities is refused ({error})", "Take them out.") from error
    except (ParseError, ValueError, LookupError) as error:  # the latter two: an unknown encoding
        raise UserError(uri, f"not readable as XML ({error})", "Write it anew.") from error
    if root.tag != "annotation":  # else another tool's file would be an image with nothing in it
        raise UserError(
            uri, f"begins with <{root.tag[:40]}>, not <annotation>", "Export it as VOC."
        )
    return root


def _size(root: Element, uri: str) -> tuple[int, int] | None:
    """(height, width) where <size> says both."""
    sides = []
    for name in ("height", "width"):
        text = root.findtext(f"size/{name}")
        sides.append(
            0 if text is None or not text.strip() else finite(text, f"{uri} (size) {name}")
        )
    return (int(sides[0]), int(sides[1])) if min(sides) >= 1 else None


def _objects(root: Element, uri: str) -> tuple[NamedBox, ...]:
    objects = root.findall("object")
    return tuple(_parse_object(o, f"object {n}", uri) for n, o in enumerate(objects, start=1))


def _parse_object(element: Element, where: str, uri: str) -> NamedBox:
    name = (element.findtext("name") or "").strip()
    corners = element.find("bndbox")
    if not name or corners is None:
        missing = "<name>" if not name else "<bndbox>"
        raise UserError(f"{uri} ({where})", f"has no {missing}", "Add it or take the object out.")
    twice = [c for c in _CORNERS if len(corners.findall(c)) > 1]
    if twice or len(element.findall("bndbox")) > 1:
        what = f"<{twice[0]}>" if twice else "<bndbox>"
        raise UserError(f"{uri} ({where})", f"has {what} twice", "Keep one of them.")
    xmin, ymin, xmax, ymax = (finite(corners.findtext(c), f"{uri} ({where}) {c}") for c in _CORNERS)
    box = (xmin - 1, ymin - 1, xmax, ymax)
    if xmax <= xmin or ymax <= ymin:
        # Coinciding corners are one pixel by VOC's letter, but what tools write for a stray click. Not
        # shifted, the box has no area, and is left out and reported as such.
        box = (xmin, ymin, xmax, ymax)
    written = f"[{xmin:g}, {ymin:g}, {xmax:g}, {ymax:g}]"
    difficult = (element.findtext("difficult") or "").strip()
    if difficult not in ("", "0", "1"):
        raise UserError(f"{uri} ({where})", f"difficult is {difficult!r}", "Write 0 or 1.")
    return NamedBox(name, box, where, written, difficult=difficult == "1")


VOC = Format(
    name="voc",
    description="VOC (Annotations/ JPEGImages/)",
    looks_like=_looks_like,
    splits=_splits,
    read=_read,
    declares_classes=False,
)
