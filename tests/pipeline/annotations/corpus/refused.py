"""Data sets that are refused: other tools, unknown layouts, labels that are not clear."""

from __future__ import annotations

import json
from collections.abc import Iterator

from tests.pipeline.annotations.corpus.kit import IMAGE, LINE, XML, Case


def other_tools() -> Iterator[Case]:
    kitti = "Car 0.00 0 -1.57 10.0 7.0 30.0 22.0 1.5 1.6 3.8 -2.0 1.7 20.0 -1.6\n"
    labelme = {"version": "5.4", "flags": {}, "shapes": [{"label": "dog", "points": [[1, 2]]}]}
    labelme |= {"imagePath": "a.png", "imageData": "iVBORw0KGgo"}
    via = {"a.png123": {"filename": "a.png", "regions": [{"shape_attributes": {"name": "rect"}}]}}
    studio = [{"id": 1, "annotations": [{"result": [{"value": {"rectanglelabels": ["dog"]}}]}]}]
    supervisely = {"size": {"height": 30, "width": 40}, "objects": [{"classTitle": "dog"}]}
    createml = [{"image": "a.png", "annotations": [{"label": "dog", "coordinates": {"x": 1}}]}]
    bdd = [{"name": "a.png", "labels": [{"category": "dog", "box2d": {"x1": 1}}]}]
    datumaro = {"categories": {"label": {}}, "items": [{"id": "a"}]}
    manifest = {"source-ref": "s3://b/a.png", "boxes": {"annotations": [{"left": 1}]}}
    cvat = '<?xml version="1.0"?><annotations><version>1.1</version><image name="a.png"/></annotations>'
    for name, path, text, says in (
        ("labelme", "a.json", json.dumps(labelme), "labelme2coco"),
        ("labelme in annotations", "annotations/a.json", json.dumps(labelme), "labelme2coco"),
        ("via", "via_region_data.json", json.dumps(via), "VIA"),
        ("via csv", "via.csv", "filename,file_size,region_shape_attributes\na.png,1,{}", "VIA"),
        ("label studio", "project.json", json.dumps(studio), "Label Studio"),
        ("supervisely", "ds/ann/a.png.json", json.dumps(supervisely), "Supervisely"),
        ("createml", "_annotations.createml.json", json.dumps(createml), "CreateML"),
        ("bdd", "det_train.json", json.dumps(bdd), "xmin = x1 + 1"),
        ("datumaro", "annotations/train.json", json.dumps(datumaro), "datum convert"),
        ("sagemaker", "output.manifest", json.dumps(manifest), "SageMaker"),
        ("cvat", "annotations.xml", cvat, "-if cvat -f coco"),
        ("kitti", "label_2/a.txt", kitti, "-if kitti_detection -f coco"),
        ("tfrecord", "train.tfrecord", "x", "TFRecord"),
        ("dota", "labelTxt/a.txt", "1 1 9 1 9 9 1 9 plane 0\n", "DOTA"),
        ("wider face", "wider_face_train_bbx_gt.txt", "x/a.jpg\n1\n1 2 3 4 0 0 0 0 0 0\n", "WIDER"),
        ("rotated", "xmls/b.xml", XML.replace("bndbox", "robndbox"), "roLabelImg"),
        ("matlab", "annotations.mat", "MATLAB 5.0", "MATLAB"),
        ("old labelme", "Annotations/b.xml", "<annotation><object><polygon></polygon></object>"
         "</annotation>", "datum convert"),
    ):  # fmt: skip
        yield Case(
            name=f"tool {name}",
            files={path: text, "images/a.png": IMAGE},
            says=(says, "It holds", "1 PNG in images/"),
        )


def unknown() -> Iterator[Case]:
    image = {"images/a.png": IMAGE}
    for name, files, *says in (
        ("nothing but images", image, "1 PNG in images/", "docs/labels.md"),
        ("folders of classes", {"dog/a.png": IMAGE, "cat/b.png": IMAGE}, "for classification"),
        ("labels without images", {"a.xml": XML}, "There is no image", "--images-at"),
        ("xml of other stems", {"annots/x.xml": XML} | image, "1 XML in annots/", "nearest", "VOC"),
        ("labels without names", {"labels/a.txt": LINE} | image, "list of class names", "data.yaml",
         "1 TXT in labels/ (1 of their stems among the images in images/)"),
        ("another table", {"t.csv": "a,b\n1,2\n"} | image, "begins with 'a,b'", "filename,class,xmin"),
        ("another json", {"x.json": "{}"} | image, "nearest layout is COCO", "x.json"),
    ):  # fmt: skip
        yield Case(name=f"unknown {name}", files=files, says=tuple(says))


def refused() -> Iterator[Case]:
    yield Case(
        name="two XML files for one image",
        files={"annots/a.xml": XML, "xmls/a.xml": XML, "images/a.png": IMAGE},
        says=("another XML file is for too", "xmls/a.xml"),
    )
    old = XML.replace("bndbox", "polygon")
    yield Case(
        name="the old LabelMe's XML with the stems of the images",
        files={"Annotations/a.xml": old, "images/a.png": IMAGE},
        says=("has no <bndbox>", "the old LabelMe's XML", "-if label_me -f coco"),
    )
    yield Case(
        name="two images for one XML file",
        files={"annots/a.xml": XML, "images/a.png": IMAGE, "images/a.bmp": IMAGE},
        says=("has the same stem as", "Rename one of them"),
    )
    yield Case(
        name="a listed image without its file",
        files={"annots/a.xml": XML, "images/a.png": IMAGE, "ImageSets/Main/train.txt": "a\nb\n"},
        says=("lists images that are not in", "b"),
    )
