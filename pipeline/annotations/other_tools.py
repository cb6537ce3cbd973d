"""Label formats that are not read: how to recognise a file, and how to convert the data set."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

_HEAD = 200_000
"""Bytes of a file that are looked at."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Converter:
    """A program that converts a data set. `make peers` runs each one on a small data set."""

    package: str
    """What `pip install` is given."""
    command: str
    """The command. FOLDER is the data set; NEW is a folder that does not exist."""
    written: str = ""
    """The annotation file, if the command copies no images."""
    needs: str = ""
    """What the program expects in FOLDER."""
    instead: str = ""
    """What is simpler, if possible."""

    def __str__(self) -> str:
        """Say what to type. These packages bring another OpenCV, which would break ours."""
        apart = f"--annotations {self.written} --images-at FOLDER, without --data"
        start = f"{self.instead} Or convert it" if self.instead else "Convert it"
        needs = f" (FOLDER holds {self.needs})" if self.needs else ""
        then = apart if self.written else "--data NEW"
        return (
            f'{start} in another Python environment: pip install "{self.package}";'
            f" {self.command}{needs}. Then give {then}."
        )


def _datumaro(name: str, needs: str = "", instead: str = "") -> Converter:
    command = f"datum convert -i FOLDER -if {name} -f coco -o NEW -- --save-media"
    return Converter(package="datumaro[cli]", command=command, needs=needs, instead=instead)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tool:
    """A label format of another tool."""

    name: str
    convert: str | Converter
    """How to get a layout that is read."""
    suffixes: tuple[str, ...]
    matches: Callable[[bytes], bool]
    """Tells from the first bytes of a file whether it is in this format."""


def _has(*patterns: bytes) -> Callable[[bytes], bool]:
    found = [re.compile(pattern, re.MULTILINE) for pattern in patterns]
    return lambda data: all(pattern.search(data) for pattern in found)


_NUMBER = rb"-?\d+(?:\.\d+)?"
TOOLS: tuple[Tool, ...] = (
    Tool(
        name="LabelMe",
        convert=Converter(
            package="labelme2coco",
            command="labelme2coco FOLDER NEW",
            written="NEW/dataset.json",
        ),
        suffixes=(".json",),
        matches=_has(rb'"shapes"\s*:\s*\[', rb'"(?:imagePath|imageData|flags|shape_type)"'),
    ),
    Tool(
        name="VIA (VGG Image Annotator)",
        convert="Export it from VIA again: Annotation > Export Annotations (COCO format).",
        suffixes=(".json", ".csv"),
        matches=_has(rb"region_shape_attributes|_via_img_metadata|\"shape_attributes\""),
    ),
    Tool(
        name="Label Studio's JSON",
        convert="Export it from Label Studio again, as COCO or YOLO with images.",
        suffixes=(".json",),
        matches=_has(
            rb'"(?:rectanglelabels|original_width|from_name|completed_by)"|"label"\s*:\s*\[\s*\{'
        ),
    ),
    Tool(
        name="Supervisely",
        convert="Export it from Supervisely again, with the app Export to COCO or Convert to YOLO.",
        suffixes=(".json",),
        matches=_has(rb'"objects"\s*:\s*\[', rb'"(?:size|classTitle|tags)"\s*:'),
    ),
    Tool(
        name="CreateML",
        convert="Export it again as COCO or Pascal VOC from the tool that wrote it.",
        suffixes=(".json",),
        matches=_has(rb'"coordinates"\s*:\s*\{', rb'"annotations?"\s*:\s*\['),
    ),
    Tool(
        name="BDD100K or Scalabel",
        convert="Write a CSV table from it: image,xmin,ymin,xmax,ymax,class with xmin = x1 + 1,"
        " ymin = y1 + 1, xmax = x2, ymax = y2.",
        suffixes=(".json",),
        matches=_has(rb'"box2d"\s*:\s*\{'),
    ),
    Tool(
        name="Datumaro",
        convert=_datumaro("datumaro"),
        suffixes=(".json",),
        matches=_has(rb'"categories"\s*:\s*\{', rb'"items"\s*:\s*\['),
    ),
    Tool(
        name="V7 Darwin",
        convert=Converter(
            package="darwin-py",
            command="mkdir NEW; darwin convert coco FOLDER NEW",
            written="NEW/output.json",
        ),
        suffixes=(".json",),
        matches=_has(rb'"bounding_box"\s*:\s*\{', rb'"(?:slots|dataset|item|image)"\s*:'),
    ),
    Tool(
        name="a SageMaker Ground Truth manifest",
        convert="Write a CSV table from it: image,xmin,ymin,xmax,ymax,class with xmin = left + 1,"
        " ymin = top + 1, xmax = left + width, ymax = top + height.",
        suffixes=(".manifest", ".jsonl", ".json"),
        matches=_has(rb'"source-ref"\s*:'),
    ),
    Tool(
        name="Labelbox's export",
        convert="Export it from Labelbox again, and convert it to COCO with its Python package labelbox.",
        suffixes=(".ndjson", ".json", ".jsonl"),
        matches=_has(rb'"data_row"\s*:\s*\{'),
    ),
    Tool(
        name="CVAT's XML",
        convert=_datumaro(
            "cvat",
            "annotations.xml and images/",
            "Export it from CVAT again, as COCO 1.0 or Ultralytics YOLO.",
        ),
        suffixes=(".xml",),
        matches=_has(rb"<annotations>", rb"<(?:version|meta|image|track)\b"),
    ),
    Tool(
        name="the old LabelMe's XML",
        convert=_datumaro("label_me", "Annotations/x/a.xml and Images/x/a.jpg"),
        suffixes=(".xml",),
        matches=_has(rb"<annotation\b", rb"<polygon>"),
    ),
    Tool(
        name="rotated boxes in VOC's XML (roLabelImg)",
        convert="Only upright boxes are read: write <bndbox> with the corners of each box.",
        suffixes=(".xml",),
        matches=_has(rb"<annotation\b", rb"<robndbox>"),
    ),
    Tool(
        name="KITTI",
        convert=_datumaro("kitti_detection", "label_2/ and image_2/"),
        suffixes=(".txt",),
        matches=_has(
            rb"\A\s*[A-Za-z_]\w* " + _NUMBER + rb" -?\d+ " + _NUMBER + (rb" " + _NUMBER) * 11
        ),
    ),
    Tool(
        name="DOTA (rotated boxes)",
        convert="Only upright boxes are read: write the bounding box of each object in a CSV table"
        " image,xmin,ymin,xmax,ymax,class.",
        suffixes=(".txt",),
        matches=_has(rb"^imagesource:|^(?:" + _NUMBER + rb" ){8}[A-Za-z][\w-]* \d\s*$"),
    ),
    Tool(
        name="WIDER FACE",
        convert=_datumaro("wider_face", "wider_face_split/ and WIDER_train/images/"),
        suffixes=(".txt",),
        matches=_has(rb"\A[^\n]+\.jpg\s*\n\d+\s*\n(?:\d+ ){4}"),
    ),
    Tool(
        name="VisDrone",
        convert="Write a CSV table from it: image,xmin,ymin,xmax,ymax,class with xmin = left + 1,"
        " ymin = top + 1, xmax = left + width, ymax = top + height.",
        suffixes=(".txt",),
        matches=_has(rb"\A(?:-?\d+,){7}-?\d+,?\s*$"),
    ),
    Tool(
        name="MOT (tracking)",
        convert="Write a CSV table from it: image,xmin,ymin,xmax,ymax,class with xmin = left,"
        " ymin = top, xmax = left + width - 1, ymax = top + height - 1.",
        suffixes=(".txt",),
        matches=_has(rb"\A\d+,-?\d+(?:," + _NUMBER + rb"){5,8}\s*$"),
    ),
    Tool(
        name="YOLOv4 PyTorch or keras-yolo3",
        convert="Export it again as COCO or YOLO, or write a CSV table from it:"
        " image,xmin,ymin,xmax,ymax,class.",
        suffixes=(".txt",),
        matches=_has(rb"\A[^\n]+\.(?:jpe?g|png|bmp) \d+,\d+,\d+,\d+,\d+"),
    ),
    Tool(
        name="VoTT",
        convert="Export it from VoTT again, as Pascal VOC or CSV.",
        suffixes=(".json",),
        matches=_has(rb'"assets"\s*:\s*\{', rb'"(?:regions|asset)"\s*:'),
    ),
    Tool(
        name="Label Studio's CSV",
        convert="Export it from Label Studio again, as COCO or YOLO with images.",
        suffixes=(".csv", ".tsv"),
        matches=_has(rb"rectanglelabels|original_width"),
    ),
    Tool(
        name="Hugging Face's image folder",
        convert="Write a CSV table from it: image,xmin,ymin,xmax,ymax,class with xmin = x + 1,"
        " ymin = y + 1, xmax = x + width, ymax = y + height.",
        suffixes=(".jsonl", ".csv"),
        matches=_has(rb'"file_name"\s*:', rb'"objects"\s*:\s*\{'),
    ),
    Tool(
        name="CrowdHuman",
        convert="Write a CSV table from it: image,xmin,ymin,xmax,ymax,class with xmin = x + 1,"
        " ymin = y + 1, xmax = x + width, ymax = y + height.",
        suffixes=(".odgt", ".json", ".txt"),
        matches=_has(rb'"gtboxes"\s*:\s*\['),
    ),
    Tool(
        name="TFRecord",
        convert="Convert the labels that the records were made from, or write a CSV table from the"
        " records: image,xmin,ymin,xmax,ymax,class.",
        suffixes=(".tfrecord", ".tfrecords", ".record", ".records"),
        matches=lambda data: True,
    ),
    Tool(
        name="a MATLAB file",
        convert="Write a CSV table from it: image,xmin,ymin,xmax,ymax,class.",
        suffixes=(".mat",),
        matches=lambda data: True,
    ),
)

XML_SHAPES = {
    tag: next(tool for tool in TOOLS if tool.suffixes == (".xml",) and tool.matches(sample))
    for tag, sample in (
        ("polygon", b"<annotation><polygon>"),
        ("robndbox", b"<annotation><robndbox>"),
    )
}
"""Element of an object in XML like VOC's -> the tool that writes it instead of <bndbox>."""


def tool_of_json(data: bytes) -> str | None:
    """Return the name of the other tool that wrote a JSON file; None if it is not known."""
    tool = tool_of("x.json", data)
    return tool.name if tool else None


def tool_of(path: str, data: bytes) -> Tool | None:
    """Return the format of a file by its suffix and its first bytes; None if it is not known."""
    name, head = path.lower(), data[:_HEAD]
    return next((t for t in TOOLS if name.endswith(t.suffixes) and t.matches(head)), None)
