"""Reads the XML files of PASCAL VOC, LabelImg and many other tools.

Corners in the file are 1-based and inclusive, so the box becomes (xmin - 1, ymin - 1, xmax, ymax). Boxes must
lie inside <size>. A <size> of zero means that the tool did not read the size; it is ignored. <filename> and
<path> are ignored: they name files on the annotator's machine.
"""

from __future__ import annotations

import re
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from pipeline.annotations.labelled import (
    BadLabel,
    NamedBox,
    NamedImage,
    finite,
    good_and_bad,
    label_error,
    refuse_shares,
)
from pipeline.annotations.other_tools import XML_SHAPES
from pipeline.annotations.tree import Tree, read_many, unique_ids
from pipeline.errors import UserError

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_DECLARED = re.compile(rb"""\A\s*<\?xml[^>]*?encoding=["']([\w.-]+)["'][^>]*\?>""")


def read_pairs(
    tree: Tree, pairs: list[tuple[str, str]], limit: int | None
) -> tuple[NamedImage, ...]:
    """Read pairs of paths (image, XML file); only the first `limit` by image path."""
    ids = dict(zip(pairs, unique_ids([image for image, _ in pairs]), strict=True))

    def read(pair: tuple[str, str]) -> NamedImage:
        image, annotation = pair
        uri = tree.uri(annotation)
        try:
            root = _parse(tree.read(annotation), uri)
            size = _size(root, uri)
        except UserError as error:
            bad = BadLabel(uri, "", error)
            return NamedImage(tree.uri(image), uri, ids[pair], (), bad=(bad,), unreadable=True)
        boxes, bad_labels = _objects(root, uri)
        return NamedImage(tree.uri(image), uri, ids[pair], boxes, size, bad_labels)

    return tuple(read_many(tree, read, sorted(pairs)[:limit]))


def parse_voc_xml(data: bytes, uri: str) -> tuple[NamedBox, ...]:
    """Parse the objects of one annotation file.

    Args:
        data: the bytes of the file.
        uri: the file, for errors.

    Raises:
        UserError: the file is not XML, has entities or is not an annotation; an object has no name or no
            box; a coordinate is not a number.
    """
    boxes, bad = _objects(_parse(data, uri), uri)
    if bad:
        raise bad[0].error
    return boxes


def _parse(data: bytes, uri: str) -> Element:
    try:
        root: Element = fromstring(_in_utf8(data))
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


def _in_utf8(data: bytes) -> bytes:
    """Write XML that declares an encoding such as GBK in UTF-8; the parser knows no encoding of that kind.

    Raises:
        ValueError, LookupError: the bytes are not in that encoding; there is no such encoding.
    """
    declared = _DECLARED.match(data)
    if declared is None or declared[1].lower().startswith((b"utf", b"iso-8859", b"us-ascii")):
        return data
    return data[declared.end() :].decode(declared[1].decode()).encode()


def _size(root: Element, uri: str) -> tuple[int, int] | None:
    """Return the (height, width) that <size> states; None unless both are 1 or more."""
    sides = []
    for name in ("height", "width"):
        text = root.findtext(f"size/{name}")
        sides.append(
            0 if text is None or not text.strip() else finite(text, f"{uri} (size) {name}")
        )
    return (int(sides[0]), int(sides[1])) if min(sides) >= 1 else None


def _objects(root: Element, uri: str) -> tuple[tuple[NamedBox, ...], tuple[BadLabel, ...]]:
    objects = ((f"object {n}", o) for n, o in enumerate(root.findall("object"), start=1))
    return good_and_bad(lambda o, where: _parse_object(o, where, uri), objects, uri)


def _parse_object(element: Element, where: str, uri: str) -> NamedBox:
    name = (element.findtext("name") or "").strip()
    corners = element.find("bndbox")
    if corners is None or not (name or len(corners)):
        missing = "<bndbox>" if name else "<name>"
        tool = next((t for tag, t in XML_SHAPES.items() if element.find(tag) is not None), None)
        if name and tool:
            why = f"has no <bndbox>. The labels are those of {tool.name}"
            raise UserError(f"{uri} ({where})", why, str(tool.convert))
        raise UserError(f"{uri} ({where})", f"has no {missing}", "Add it, or remove the object.")
    twice = [c for c in _CORNERS if len(corners.findall(c)) > 1]
    if twice or len(element.findall("bndbox")) > 1:
        what = f"<{twice[0]}>" if twice else "<bndbox>"
        raise UserError(f"{uri} ({where})", f"has {what} twice", "Remove one of them.")
    xmin, ymin, xmax, ymax = (finite(corners.findtext(c), f"{uri} ({where}) {c}") for c in _CORNERS)
    refuse_shares((xmin, ymin, xmax, ymax), f"{uri} ({where})")
    box = (xmin - 1, ymin - 1, xmax, ymax)
    if xmax <= xmin or ymax <= ymin:
        # By VOC's rule, equal corners are a box of one pixel. But tools write them for a stray click. Without
        # the shift the box has no area, so it is left out and reported.
        box = (xmin, ymin, xmax, ymax)
    written = f"[{xmin:g}, {ymin:g}, {xmax:g}, {ymax:g}]"
    difficult = (element.findtext("difficult") or "").strip()
    if difficult not in ("", "0", "1"):
        raise UserError(f"{uri} ({where})", f"difficult is {difficult!r}", "Expected 0 or 1.")
    label = NamedBox(name, box, where, written, difficult=difficult == "1")
    if not name:
        raise label_error(
            label, f"{uri} ({where})", "has no <name>", "Add it, or remove the object."
        )
    return label
