"""Bad and unusual annotation files, each with the expected error or the expected boxes.

Every data set has one image, `a.jpg`, 40 wide and 30 high, and the class `dog`. The files are made in memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

NOTHING: tuple[tuple[float, ...], ...] = ()
WHOLE = ((0.0, 0.0, 40.0, 30.0),)


@dataclass(frozen=True, slots=True)
class HostileAnnotation:
    """One data set: its files beside the image, and the expected result."""

    name: str
    layout: str
    files: dict[str, bytes]
    says: tuple[str, ...]
    """Parts of the error message; where `boxes` are given, parts of the reported problem."""
    boxes: tuple[tuple[float, ...], ...] | None = None
    """The expected ground truth of the image; None means that the data set is refused."""


def corpus() -> list[HostileAnnotation]:
    """Make all cases."""
    cases = [
        case for group in (_xml, _xml_objects, _coco, _yolo_lines, _yolo_yaml) for case in group()
    ]
    assert len({case.name for case in cases}) == len(cases)
    return cases


def _voc(
    name: str, content: str | bytes, *says: str, boxes: Any = None, layout: str = "voc"
) -> HostileAnnotation:
    data = content if isinstance(content, bytes) else content.encode()
    path = "Annotations/a.xml" if layout == "voc" else "train/a.xml"
    return HostileAnnotation(
        f"{layout} {name}", layout, {path: data}, ("a.xml", *says)[boxes is not None :], boxes
    )


def _object(
    xmin: object = 1, ymin: object = 1, xmax: object = 40, ymax: object = 30, more: str = ""
) -> str:
    corners = {"xmin": xmin, "ymin": ymin, "xmax": xmax, "ymax": ymax}
    box = "".join(f"<{tag}>{value}</{tag}>" for tag, value in corners.items())
    return f"<object><name>dog</name>{more}<bndbox>{box}</bndbox></object>"


def _annotation(*objects: str, size: str = "", filename: str = "a.jpg") -> str:
    return f"<annotation><filename>{filename}</filename>{size}{''.join(objects)}</annotation>"


def _xml() -> Iterator[HostileAnnotation]:
    good = _annotation(_object())
    entity = '<!DOCTYPE annotation [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
    laughs = "".join(f'<!ENTITY l{n + 1} "{f"&l{n};" * 10}">' for n in range(9))
    for layout in ("voc", "labelimg"):
        yield _voc("empty file", "", "not readable as XML", "line 1", layout=layout)
        yield _voc("cut", good[:-30], "not readable as XML", "line 1", layout=layout)
        yield _voc("web page", "<html><body>404</body></html>", "<html>", layout=layout)
        yield _voc(
            "external entity", entity + "<annotation>&x;</annotation>", "entities", layout=layout
        )
    yield _voc("store's error", "<Error><Code>AccessDenied</Code></Error>", "<Error>")
    yield _voc("another tool's", "<annotations><image/></annotations>", "<annotations>")
    yield _voc("binary", bytes(range(256)), "not readable as XML")
    yield _voc("nul bytes", bytes(1000), "not readable as XML")
    yield _voc("two roots", good + good, "not readable as XML", "junk")
    yield _voc(
        "a billion laughs",
        f'<!DOCTYPE a [<!ENTITY l0 "ha">{laughs}]><annotation>&l9;</annotation>',
        "entities",
    )
    yield _voc(
        "quadratic",
        f'<!DOCTYPE a [<!ENTITY x "{"y" * 10**5}">]><annotation>{"&x;" * 10**3}</annotation>',
        "entities",
    )
    yield _voc(
        "parameter entity",
        '<!DOCTYPE a [<!ENTITY % x SYSTEM "http://127.0.0.1:1/x.dtd">%x;]><annotation/>',
        "entities",
    )
    yield _voc(
        "unknown encoding", f'<?xml version="1.0" encoding="nonsense"?>{good}', "not readable"
    )
    yield _voc(
        "wrong encoding",
        b'<?xml version="1.0" encoding="utf-8"?><annotation>\xff\xfe</annotation>',
        "not readable",
    )
    yield _voc(
        "deep", "<annotation>" + "<a>" * 10**5 + "</a>" * 10**5 + "</annotation>", boxes=NOTHING
    )
    yield _voc("utf-16", good.encode("utf-16"), boxes=WHOLE)
    yield _voc("byte order mark", b"\xef\xbb\xbf" + good.encode(), boxes=WHOLE)
    yield _voc(
        "latin-1",
        b'<?xml version="1.0" encoding="latin-1"?>'
        + _annotation(_object(more="<pose>é</pose>")).encode("latin-1"),
        boxes=WHOLE,
    )
    yield _voc("no objects", _annotation(), boxes=NOTHING)
    yield _voc(
        "a file name that climbs",
        _annotation(_object(), filename="../../../etc/passwd"),
        boxes=WHOLE,
    )
    yield _voc(
        "a namespace",
        '<annotation xmlns="http://x">' + _object() + "</annotation>",
        "{http://x}annotation",
    )


def _xml_objects() -> Iterator[HostileAnnotation]:
    for value in ("nan", "inf", "-inf", "1e999", "", "ten", "1,5", "0x10", "1_0", "１２"):
        yield _voc(
            f"corner {value!r}",
            _annotation(_object(xmax=value)),
            "object 1",
            "xmax",
            "not a finite number",
        )
    yield _voc(
        "second object bad", _annotation(_object(), _object(ymin="?")), "object 2", "ymin", "'?'"
    )
    yield _voc(
        "swapped corners",
        _annotation(_object(xmin=30, xmax=3)),
        "object 1",
        "[30, 1, 3, 30]",
        "Swap",
    )
    yield _voc("xywh", _annotation(_object(20, 20, 10, 5)), "object 1", "ends before it begins")
    yield _voc(
        "no name", _annotation(_object()).replace("<name>dog</name>", ""), "object 1", "<name>"
    )
    yield _voc("blank name", _annotation(_object()).replace("dog", " "), "object 1", "<name>")
    yield _voc(
        "no box",
        "<annotation><object><name>dog</name></object></annotation>",
        "object 1",
        "<bndbox>",
    )
    yield _voc(
        "rotated box", _annotation(_object()).replace("bndbox", "robndbox"), "object 1", "<bndbox>"
    )
    yield _voc(
        "no ymax",
        _annotation(_object()).replace("<ymax>30</ymax>", ""),
        "object 1",
        "ymax",
        "missing",
    )
    yield _voc(
        "a corner twice",
        _annotation(_object()).replace("<xmin>", "<xmin>9</xmin><xmin>"),
        "<xmin> twice",
    )
    yield _voc(
        "difficult perhaps",
        _annotation(_object(more="<difficult>yes</difficult>")),
        "object 1",
        "'yes'",
        "0 or 1",
    )
    size = "<size><width>40</width><height>30</height></size>"
    yield _voc(
        "outside",
        _annotation(_object(xmax=400), size=size),
        "object 1",
        "400",
        "40 wide and 30 high",
    )
    yield _voc(
        "far to the left", _annotation(_object(xmin=-9), size=size), "object 1", "outside its image"
    )
    yield _voc(
        "size of another picture",
        _annotation(_object(), size=size.replace("40", "20")),
        "outside its image",
    )
    yield _voc(
        "size that is no number",
        _annotation(_object(), size=size.replace("40", "wide")),
        "(size) width",
        "'wide'",
    )
    yield _voc("size zero", _annotation(_object(), size=size.replace("40", "0")), boxes=WHOLE)
    yield _voc(
        "counted from zero",
        _annotation(_object(0, 0, 39, 29), size=size),
        boxes=((-1.0, -1.0, 39.0, 29.0),),
    )
    yield _voc(
        "one pixel over", _annotation(_object(xmax=41), size=size), boxes=((0.0, 0.0, 41.0, 30.0),)
    )
    yield _voc(
        "a stray click",
        _annotation(_object(), _object(5, 5, 5, 5)),
        "a.xml (object 2)",
        "no area; left out",
        boxes=WHOLE,
    )


def _document(**changes: Any) -> dict[str, Any]:
    image = {"id": 1, "file_name": "a.jpg", "width": 40, "height": 30} | changes.pop("image", {})
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 40, 30], "iscrowd": 0}
    category = {"id": 1, "name": "dog"} | changes.pop("category", {})
    box |= changes.pop("box", {})
    return {"images": [image], "annotations": [box], "categories": [category]} | changes


def _json(name: str, content: Any, *says: str, boxes: Any = None) -> HostileAnnotation:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    expected = says if boxes is not None else ("instances_train.json", *says)
    return HostileAnnotation(
        f"coco {name}", "coco", {"annotations/instances_train.json": data}, expected, boxes
    )


def _coco() -> Iterator[HostileAnnotation]:
    good = json.dumps(_document()).encode()
    yield _json("empty file", b"", "not readable as JSON", "line 1")
    yield _json("cut", good[:-20], "not readable as JSON", "line 1")
    yield _json("web page", b"<html>", "not readable as JSON")
    yield _json("deep", b"[" * 10**5, "not readable as JSON")
    yield _json(
        "a number of 10000 digits",
        good.replace(b"40,", b"9" * 10**4 + b","),
        "not readable as JSON",
    )
    yield _json("a list", [], "no list of images")
    yield _json("no categories", {"images": [], "annotations": []}, "no list of categories")
    yield _json("images of text", _document(images=["a.jpg"]), "no list of images")
    yield _json(
        "another encoding", good.decode().replace("dog", "dög").encode("latin-1"), "not readable"
    )
    for name, box, *says in (
        (
            "polygon only",
            {"bbox": None, "segmentation": [[0, 0, 9, 0, 9, 9]]},
            "bbox None",
            "bounding box of its segm",
        ),
        ("three numbers", {"bbox": [1, 2, 3]}, "[1, 2, 3]", "[x, y, w, h]"),
        ("text in a box", {"bbox": ["1", 2, 3, 4]}, "holds text"),
        ("NaN", {"bbox": [float("nan"), 0, 1, 1]}, "not a finite number"),
        ("Infinity", {"bbox": [0, 0, float("inf"), 1]}, "not a finite number"),
        ("true", {"bbox": [True, 0, 1, 1]}, "not a finite number"),
        ("a number of 400 digits", {"bbox": [0, 0, 10**400, 1]}, "not a finite number"),
        ("negative width", {"bbox": [9, 9, -5, 5]}, "[9, 9, -5, 5]", "ends before it begins"),
        ("outside", {"bbox": [30, 0, 40, 30]}, "[30, 0, 40, 30]", "40 wide and 30 high"),
        ("category of text", {"category_id": "1"}, "category_id '1'"),
        ("category of float", {"category_id": 1.0}, "category_id 1.0"),
        ("category unknown", {"category_id": 7}, "category_id 7", "The category ids are 1"),
        ("image of float", {"image_id": 1.0}, "image id 1.0"),
        ("orphan", {"image_id": 9}, "images that it does not list: annotation 1"),
        ("crowd of text", {"iscrowd": "0"}, "iscrowd is '0'", "0 or 1"),
    ):
        where = () if name == "orphan" else ("annotation 1",)
        yield _json(name, _document(box=box), *where, *says)
    twice = _document()["annotations"] * 2
    yield _json("annotation twice", _document(annotations=twice), "annotation id 1", "twice")
    yield _json("image twice", _document(images=_document()["images"] * 2), "image id 1", "twice")
    same = [{"id": n, "file_name": "a.jpg"} for n in (1, 2)]
    yield _json("one image under two ids", _document(images=same), "a.jpg", "twice")
    yield _json(
        "category twice",
        _document(categories=_document()["categories"] * 2),
        "category id 1",
        "twice",
    )
    yield _json("category without a name", _document(category={"name": " "}), "category", "a name")
    yield _json(
        "image elsewhere",
        _document(image={"file_name": "../../etc/passwd"}),
        "etc/passwd",
        "do not exist",
    )
    yield _json("image name of number", _document(image={"file_name": 7}), "file_name 7")
    yield _json("size of text", _document(image={"width": "40"}), "width '40'")
    yield _json("size negative", _document(image={"height": -30}), "height -30")
    yield _json("byte order mark", b"\xef\xbb\xbf" + good, boxes=WHOLE)
    yield _json("wrong area", _document(box={"area": -5}), boxes=WHOLE)
    yield _json("category 0", _document(category={"id": 0}, box={"category_id": 0}), boxes=WHOLE)
    yield _json(
        "crowd as run lengths",
        _document(box={"iscrowd": 1, "segmentation": {"counts": "x"}}),
        boxes=WHOLE,
    )
    yield _json(
        "no area",
        _document(box={"bbox": [5, 5, 0, 5]}),
        "annotation 1",
        "no area; left out",
        boxes=NOTHING,
    )
    yield _json("no annotation", _document(annotations=[]), boxes=NOTHING)


def _yolo(
    name: str, label: str | bytes, yaml: str, *says: str, boxes: Any = None
) -> HostileAnnotation:
    data = label if isinstance(label, bytes) else label.encode()
    files = {"data.yaml": yaml.encode(), "labels/train/a.txt": data}
    return HostileAnnotation(f"yolo {name}", "yolo", files, says, boxes)


def _yolo_lines() -> Iterator[HostileAnnotation]:
    yaml = "train: images/train\nnames: [dog]\n"
    for name, line, *says in (
        ("class too high", "1 .5 .5 1 1", "class '1'", "The classes are dog"),
        ("class negative", "-1 .5 .5 1 1", "class '-1'"),
        ("class of text", "dog .5 .5 1 1", "class 'dog'"),
        ("class of other digits", "٠ .5 .5 1 1", "class"),
        ("class of 5000 digits", f"{'9' * 5000} .5 .5 1 1", "class"),
        ("four numbers", "0 .5 .5 1", "4 numbers"),
        ("confidence", "0 .5 .5 1 1 .9", "6 numbers"),
        ("pixels", "0 20 15 40 30", "not shares", "Divide pixels by the width or height"),
        ("NaN", "0 .5 .5 nan 1", "not a finite number"),
        ("comma", "0 0,5 .5 1 1", "'0,5'", "not a finite number"),
        ("outside", "0 .9 .5 .5 1", "lies outside its image"),
        ("negative width", "0 .5 .5 -.5 1", "not shares"),
    ):
        yield _yolo(name, f"0 .5 .5 1 1\n{line}\n", yaml, "labels/train/a.txt (line 2)", *says)
    yield _yolo("not UTF-8", b"0 .5 .5 1 1 \xff", yaml, "labels/train/a.txt", "not UTF-8")
    yield _yolo("empty label file", "", yaml, boxes=NOTHING)
    yield _yolo("line ends of Windows", "0 .5 .5 1 1\r\n\r\n", yaml, boxes=WHOLE)
    yield _yolo(
        "no area",
        "0 .5 .5 0 1",
        yaml,
        "labels/train/a.txt (line 1)",
        "no area; left out",
        boxes=NOTHING,
    )


def _yolo_yaml() -> Iterator[HostileAnnotation]:
    label = "0 .5 .5 1 1"
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [{','.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(9)
    )
    for name, yaml, *says in (
        ("a Python object", "names: !!python/object/apply:os.system [id]", "not readable as YAML"),
        ("aliases that multiply", bomb + "names: *j\n", "name 0 is not text"),
        ("deep", "names: " + "[" * 1000, "not readable as YAML"),
        ("names twice", "names: [dog, dog]", "'dog' is used twice"),
        ("names with a gap", "names: {0: dog, 2: cat}", "numbered from 0"),
        ("no names", "train: images/train", "names is neither a list"),
        ("a name of nothing", "names: [dog, ]\nnc: 2", "nc is not 1"),
        ("a name that is a list", "names: [[dog]]", "name 0 is not text"),
        ("a split that is a mapping", "train: [{a: b}]\nnames: [dog]", "not text"),
        ("tabs", "names:\n\t- dog", "not readable as YAML", "line 2"),
        ("a list", "[dog]", "holds no settings"),
    ):
        file = () if name == "a split that is a mapping" else ("data.yaml",)
        yield _yolo(name, label, yaml, *file, *says)
    yield _yolo("a split elsewhere", label, "train: ../../../etc\nnames: [dog]", boxes=WHOLE)
