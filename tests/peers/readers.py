"""Reads data sets with other tools' libraries. It runs in `.venv-peers` and imports nothing of this project.

    python readers.py TOOL LAYOUT=FOLDER...

The last line of the output is a list in JSON, with one entry per data set: for each image, by its path below
the folder of the images, a list of boxes: class, x1, y1, x2, y2 in pixels.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.parse import unquote

Boxes = list[tuple[str, float, float, float, float]]
Images = dict[str, Boxes]

FOLDERS = {"yolo": "images", "voc": "JPEGImages", "coco-dataset": "images"}
COCO_FILE = "annotations/instances_train.json"


def supervision(layout: str, root: str) -> Images:
    """Read with `supervision.DetectionDataset`."""
    from supervision import DetectionDataset

    images = f"{root}/{FOLDERS[layout]}"
    if layout == "yolo":
        data = DetectionDataset.from_yolo(images, f"{root}/labels", f"{root}/data.yaml")
    elif layout == "voc":
        data = DetectionDataset.from_pascal_voc(images, f"{root}/Annotations")
    else:
        data = DetectionDataset.from_coco(images, f"{root}/{COCO_FILE}")
    return {
        str(Path(path).relative_to(images)): [
            (data.classes[kind], *map(float, box))
            for box, kind in zip(found.xyxy, found.class_id, strict=True)
        ]
        for path, _, found in data
    }


def datumaro(layout: str, root: str) -> Images:
    """Read with the library with which CVAT imports."""
    from datumaro import Dataset
    from datumaro.components.annotation import AnnotationType

    name = {"yolo": "yolo", "voc": "voc_detection", "coco-dataset": "coco_instances"}[layout]
    data = Dataset.import_from(root, name)
    labels = data.categories()[AnnotationType.label]
    images = {}
    for item in data:
        boxes = []
        for found in item.annotations:
            x, y, width, height = found.get_bbox()
            boxes.append((labels[found.label].name, x, y, x + width, y + height))
        assert Path(item.media.path).is_file(), item.media.path
        images[str(Path(item.media.path).relative_to(f"{root}/{FOLDERS[layout]}"))] = boxes
    return images


def fiftyone(layout: str, root: str) -> Images:
    """Read with the importers of FiftyOne. Its data sets need MongoDB; its importers need none."""
    from fiftyone.utils.coco import COCODetectionDatasetImporter
    from fiftyone.utils.voc import VOCDetectionDatasetImporter
    from fiftyone.utils.yolo import YOLOv5DatasetImporter
    from PIL import Image

    folder = f"{root}/{FOLDERS[layout]}"
    if layout == "yolo":
        importer = YOLOv5DatasetImporter(dataset_dir=root, yaml_path="data.yaml", split="train")
    elif layout == "voc":
        importer = VOCDetectionDatasetImporter(data_path=folder, labels_path=f"{root}/Annotations")
    else:
        importer = COCODetectionDatasetImporter(data_path=folder, labels_path=f"{root}/{COCO_FILE}")
    images: Images = {}
    with importer:
        for path, _, labels in importer:
            found = labels["detections"] if isinstance(labels, dict) else labels
            with Image.open(path) as image:
                size = image.size
            images[str(Path(path).relative_to(folder))] = [
                (box.label, *_pixels(box.bounding_box, size)) for box in found.detections
            ]
    return images


def label_studio(layout: str, root: str) -> Images:
    """Read with the commands `label-studio-converter import yolo` and `... coco`."""
    from label_studio_converter.imports.coco import convert_coco_to_ls
    from label_studio_converter.imports.yolo import convert_yolo_to_ls

    if layout == "yolo":
        convert_yolo_to_ls(root, "tasks.json", image_root_url="/")
    else:
        convert_coco_to_ls(f"{root}/{COCO_FILE}", "tasks.json", image_root_url="/")
    images = {}
    for task in json.loads(Path("tasks.json").read_text()):
        boxes = []
        for region in task["annotations"][0]["result"]:
            value = region["value"]
            shares = [value[name] / 100 for name in ("x", "y", "width", "height")]
            size = region["original_width"], region["original_height"]
            boxes.append((value["rectanglelabels"][0], *_pixels(shares, size)))
        images[unquote(task["data"]["image"]).lstrip("/")] = boxes
    return images


def pycocotools(layout: str, root: str) -> Images:
    """Read with the library of COCO's authors."""
    from pycocotools.coco import COCO

    coco = COCO(f"{root}/{COCO_FILE}")
    images = {}
    for entry in coco.loadImgs(coco.getImgIds()):
        boxes = []
        for found in coco.loadAnns(coco.getAnnIds(imgIds=[entry["id"]])):
            (kind,) = coco.loadCats([found["category_id"]])
            x, y, width, height = found["bbox"]
            boxes.append((kind["name"], x, y, x + width, y + height))
        images[entry["file_name"]] = boxes
    return images


def ultralytics(layout: str, root: str) -> Images:
    """Read with the data set of Ultralytics' trainings. Torch is that of the project's environment."""
    sys.path.append(os.environ["LENT_PACKAGES"])
    from ultralytics.data.dataset import YOLODataset
    from ultralytics.data.utils import check_det_dataset

    data = check_det_dataset(f"{root}/data.yaml", autodownload=False)
    images = {}
    for entry in YOLODataset(img_path=data["train"], data=data, task="detect").labels:
        height, width = entry["shape"]
        boxes = []
        for (kind,), (x, y, w, h) in zip(entry["cls"], entry["bboxes"].tolist(), strict=True):
            shares = (x - w / 2, y - h / 2, w, h)
            boxes.append((data["names"][int(kind)], *_pixels(shares, (width, height))))
        images[str(Path(entry["im_file"]).relative_to(data["train"]))] = boxes
    return images


def _pixels(shares: Iterable[float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Turn x, y, width, height as shares of an image into corners in pixels."""
    x, y, w, h = shares
    width, height = size
    return x * width, y * height, (x + w) * width, (y + h) * height


READERS: dict[str, Callable[[str, str], Images]] = {
    function.__name__: function
    for function in (supervision, datumaro, fiftyone, label_studio, pycocotools, ultralytics)
}

if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        results = [READERS[sys.argv[1]](*data_set.split("=", 1)) for data_set in sys.argv[2:]]
    sys.stdout.write(f"{json.dumps(results)}\n")
