"""The PASCAL VOC format: one XML file an image, in VOC's folders.

    Annotations/x.xml  JPEGImages/x.jpg  ImageSets/Main/train.txt

An annotation belongs to the image with the same stem. <filename> and <path> are ignored: they name files on
the annotator's machine. Corners in the file are 1-based and inclusive, so the box becomes
(xmin - 1, ymin - 1, xmax, ymax). Boxes must lie inside <size>. A <size> of zero means that the tool did not
read the size; it is ignored.
"""

from __future__ import annotations

import posixpath
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from pipeline.annotations.labelled import (
    Annotations,
    Format,
    NamedBox,
    NamedImage,
    finite,
    first_few,
)
from pipeline.annotations.tree import Tree, only_image, unique_ids
from pipeline.errors import UserError
from pipeline.runtime.prefetch import in_threads

_SETS = "ImageSets/Main"
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
ALL = "all"
"""The only split of a data set that names no splits."""


def _looks_like(tree: Tree) -> bool:
    """Whether the folder Annotations/ holds XML files."""
    return bool(tree.below("Annotations", (".xml",)))


def _splits(tree: Tree) -> tuple[str, ...]:
    """List the splits in ImageSets/Main, without the lists of a single class (``dog_train``)."""
    names = {
        posixpath.splitext(p)[0].removeprefix(f"{_SETS}/") for p in tree.below(_SETS, (".txt",))
    }
    named = sorted(n for n in names if n.rpartition("_")[2] not in names - {n})
    return tuple(named) or (ALL,)


def _read(tree: Tree, split: str, limit: int | None) -> Annotations:
    """Read the images that ImageSets/Main/<split>.txt lists."""
    annotations = by_name(tree.below("Annotations", (".xml",)), "Annotations")
    images = {
        k.removeprefix("JPEGImages/"): v for k, v in tree.images_by_stem("JPEGImages").items()
    }
    if f"{_SETS}/{split}.txt" not in tree.known:
        return read_all(tree, annotations, images, limit)
    names, problems = _read_list(tree, f"{_SETS}/{split}.txt")
    for folder, existing in (("Annotations", set(annotations)), ("JPEGImages", set(images))):
        absent = [name for name in names if name not in existing]
        if absent:
            raise UserError(
                f"split {split!r} of {tree.root}",
                f"lists images that are not in {folder}: {first_few(absent)}",
                f"Add them, or remove them from {_SETS}/{split}.txt.",
            )
    pairs = [(only_image(images[name], tree.root), annotations[name]) for name in names]
    return Annotations(_read_pairs(tree, pairs, limit), None, tuple(problems))


def _read_list(tree: Tree, path: str) -> tuple[list[str], list[str]]:
    """Read a list of image names; return each name once, and the problems."""
    lines = [line.strip() for line in tree.read_text(path).splitlines()]
    names = [name for name in lines if name]
    if not names:
        raise UserError(tree.uri(path), "lists no image", "Give another --split.")
    once = list(dict.fromkeys(names))
    if len(once) == len(names):
        return once, []
    repeated = len(names) - len(once)
    return once, [f"{tree.uri(path)}: ignored {repeated} repeated names; each image is read once"]


def by_name(paths: list[str], folder: str) -> dict[str, str]:
    """Map each path's part below `folder`, without its suffix, to the path."""
    prefix = f"{folder}/" if folder else ""
    return {posixpath.splitext(path)[0].removeprefix(prefix): path for path in paths}


def read_all(
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
    alone = [path for name, path in annotations.items() if name not in images]
    if alone:
        problems.append(f"{tree.root}: XML files without an image, left out: {first_few(alone)}")
    unlabelled = [images[name][0] for name in images if name not in annotations]
    if unlabelled:
        problems.append(
            f"{tree.root}: images without an XML file, left out: {first_few(unlabelled)}"
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
    """Read pairs of paths (image, XML file); only the first `limit` by image path."""
    ids = dict(zip(pairs, unique_ids([image for image, _ in pairs]), strict=True))

    def read(pair: tuple[str, str]) -> NamedImage:
        image, annotation = pair
        uri = tree.uri(annotation)
        root = _parse(tree.read(annotation), uri)
        return NamedImage(tree.uri(image), uri, ids[pair], _objects(root, uri), _size(root, uri))

    return tuple(in_threads(read, sorted(pairs)[:limit]))


def parse_voc_xml(data: bytes, uri: str) -> tuple[NamedBox, ...]:
    """Parse the objects of one annotation file.

    Args:
        data: the bytes of the file.
        uri: the file, for errors.

    Raises:
        UserError: the file is not XML, has entities or is not an annotation; an object has no name or no
            box; a coordinate is not a number.
    """
    return _objects(_parse(data, uri), uri)


def _parse(data: bytes, uri: str) -> Element:
    try:
        root: Element = fromstring(data)
    except DefusedXmlException as error:
        raise UserError(
            uri, f"declares XML entities, which are refused ({error})", "Remove them."
        ) from error
    except (ParseError, ValueError, LookupError) as error:  # the last two: an unknown encoding
        raise UserError(
            uri, f"is not readable as XML ({error})", "Export the annotation again."
        ) from error
    # Without this check, the file of another tool would count as an image without objects.
    if root.tag != "annotation":
        raise UserError(
            uri,
            f"begins with <{root.tag[:40]}>, not <annotation>",
            "Export the annotations in VOC's format.",
        )
    return root


def _size(root: Element, uri: str) -> tuple[int, int] | None:
    """Return the (height, width) that <size> states; None unless both are 1 or more."""
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
        raise UserError(f"{uri} ({where})", f"has no {missing}", "Add it, or remove the object.")
    twice = [c for c in _CORNERS if len(corners.findall(c)) > 1]
    if twice or len(element.findall("bndbox")) > 1:
        what = f"<{twice[0]}>" if twice else "<bndbox>"
        raise UserError(f"{uri} ({where})", f"has {what} twice", "Remove one of them.")
    xmin, ymin, xmax, ymax = (finite(corners.findtext(c), f"{uri} ({where}) {c}") for c in _CORNERS)
    box = (xmin - 1, ymin - 1, xmax, ymax)
    if xmax <= xmin or ymax <= ymin:
        # By VOC's rule, equal corners are a box of one pixel. But tools write them for a stray click. Without
        # the shift the box has no area, so it is left out and reported.
        box = (xmin, ymin, xmax, ymax)
    written = f"[{xmin:g}, {ymin:g}, {xmax:g}, {ymax:g}]"
    difficult = (element.findtext("difficult") or "").strip()
    if difficult not in ("", "0", "1"):
        raise UserError(f"{uri} ({where})", f"difficult is {difficult!r}", "Expected 0 or 1.")
    return NamedBox(name, box, where, written, difficult=difficult == "1")


VOC = Format(
    name="voc",
    description="VOC (Annotations/ JPEGImages/)",
    looks_like=_looks_like,
    splits=_splits,
    read=_read,
    declares_classes=False,
)
