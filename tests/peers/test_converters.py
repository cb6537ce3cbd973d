"""The commands that our messages recommend convert a data set of each kind, and we read the result."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pipeline.annotations import read_labelled_images
from pipeline.annotations.other_tools import TOOLS, Converter
from pipeline.config import TrainConfig
from pipeline.errors import UserError
from pipeline.training.data import read_data
from tests.peers.environment import CHECKOUT, require_peers, run
from tests.pipeline.annotations.corpus import picture

pytestmark = pytest.mark.peers

IMAGE = None
"""Stands for a picture of 40 x 30."""
BOX = [10, 7, 30, 22]
LABELME = {
    "version": "5.4.1", "flags": {}, "imagePath": "a.png", "imageData": None, "imageHeight": 30,
    "imageWidth": 40, "shapes": [{"label": "dog", "points": [[10, 7], [30, 22]], "group_id": None,
                                  "shape_type": "rectangle", "flags": {}}],
}  # fmt: skip
DATUMARO = {
    "info": {},
    "categories": {"label": {"labels": [{"name": "dog", "parent": "", "attributes": []}]}},
    "items": [{"id": "a", "image": {"path": "a.png", "size": [30, 40]}, "annotations": [
        {"id": 0, "type": "bbox", "attributes": {}, "group": 0, "label_id": 0, "z_order": 0,
         "bbox": [10, 7, 20, 15]}]}],
}  # fmt: skip
DARWIN = {
    "version": "2.0",
    "item": {"name": "a.png", "path": "/", "slots": [
        {"type": "image", "slot_name": "0", "width": 40, "height": 30,
         "source_files": [{"file_name": "a.png", "url": ""}]}]},
    "annotations": [{"bounding_box": {"x": 10, "y": 7, "w": 20, "h": 15}, "id": "1", "name": "dog",
                     "slot_names": ["0"]}],
}  # fmt: skip
CVAT = """<?xml version="1.0"?><annotations><version>1.1</version><meta><task><name>t</name><size>1</size>
<mode>annotation</mode><labels><label><name>dog</name><attributes/></label></labels></task></meta>
<image id="0" name="a.png" width="40" height="30"><box label="dog" source="manual" occluded="0" xtl="10.00"
ytl="7.00" xbr="30.00" ybr="22.00" z_order="0"></box></image></annotations>"""
CORNERS = "".join(
    f"<pt><x>{x}</x><y>{y}</y></pt>" for x, y in ((10, 7), (30, 7), (30, 22), (10, 22))
)
OLD_LABELME = f"""<annotation><filename>a.png</filename><folder>set</folder><imagesize><nrows>30</nrows>
<ncols>40</ncols></imagesize><object><name>dog</name><deleted>0</deleted><occluded>no</occluded>
<attributes></attributes><parts><hasparts></hasparts><ispartof></ispartof></parts><id>0</id>
<polygon><username>me</username>{CORNERS}</polygon></object></annotation>"""
KITTI = "dog 0.00 0 -1.57 10.00 7.00 30.00 22.00 1.5 1.6 3.8 -2.0 1.7 20.0 -1.6\n"
WIDER = "0--Dogs/a.jpg\n1\n10 7 20 15 0 0 0 0 0 0\n"
KINDS: dict[str, tuple[str, dict[str, str | None]]] = {
    "labelme": ("LabelMe", {"a.json": json.dumps(LABELME), "a.png": IMAGE}),
    "labelme, folders": ("LabelMe", {
        "annotations/a.json": json.dumps(LABELME | {"imagePath": "../images/a.png"}),
        "images/a.png": IMAGE}),
    "datumaro": ("Datumaro", {"annotations/train.json": json.dumps(DATUMARO),
                              "images/train/a.png": IMAGE}),
    "darwin": ("V7 Darwin", {"annotations/a.json": json.dumps(DARWIN), "images/a.png": IMAGE}),
    "cvat": ("CVAT's XML", {"annotations.xml": CVAT, "images/a.png": IMAGE}),
    "old labelme": ("the old LabelMe's XML", {"Annotations/set/a.xml": OLD_LABELME,
                                              "Images/set/a.png": IMAGE}),
    "kitti": ("KITTI", {"training/label_2/a.txt": KITTI, "training/image_2/a.png": IMAGE}),
    "kitti, no split": ("KITTI", {"label_2/a.txt": KITTI, "image_2/a.png": IMAGE}),
    "wider face": ("WIDER FACE", {"wider_face_split/wider_face_train_bbx_gt.txt": WIDER,
                                  "WIDER_train/images/0--Dogs/a.jpg": IMAGE}),
}  # fmt: skip


def test_each_recommended_command_has_a_data_set() -> None:
    with_command = {tool.name for tool in TOOLS if isinstance(tool.convert, Converter)}
    assert with_command == {name for name, _ in KINDS.values()}


@pytest.mark.parametrize("tool", [t for t in TOOLS if isinstance(t.convert, Converter)])
def test_each_recommended_package_is_in_the_lock(tool: object) -> None:
    package = tool.convert.package  # type: ignore[attr-defined]
    assert re.search(
        rf"^{re.escape(package)}\s", (CHECKOUT / "requirements/peers.in").read_text(), re.M
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_message_names_a_command_whose_result_is_read(kind: str, tmp_path: Path) -> None:
    require_peers()
    name, files = KINDS[kind]
    data = tmp_path / "FOLDER"
    for path, text in files.items():
        (data / path).parent.mkdir(parents=True, exist_ok=True)
        (data / path).write_bytes(picture(0) if text is None else text.encode())
    with pytest.raises(UserError) as refused:
        read_labelled_images(str(data), "train")
    (tool,) = [tool for tool in TOOLS if tool.name == name]
    converter = tool.convert
    assert isinstance(converter, Converter)
    assert name in str(refused.value)
    assert converter.command in str(refused.value)
    run(converter.command, home=tmp_path)  # FOLDER and NEW are folders of its working folder
    if converter.written:
        place = {"annotations": str(tmp_path / converter.written), "images_at": str(data)}
    else:
        place = {"data": str(tmp_path / "NEW")}
    labelled, _ = read_data(TrainConfig(output=str(tmp_path / "output"), **place))  # type: ignore[arg-type]
    (image,) = labelled.images
    assert Path(image.image_uri).stem == "a"
    (label,) = image.gt_labels.tolist()
    assert labelled.classes[label - 1] == ("face" if kind == "wider face" else "dog")
    assert image.gt_boxes.tolist() == [BOX]
