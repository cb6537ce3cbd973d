"""Labelled images, whatever their layout: VOC, LabelImg, COCO, YOLO -> boxes xyxy in the image frame.

Only the readers here know 1-based corners, xywh and normalised boxes. `read_labelled_images` finds the layout
by looking; `splits` says what there is to read.
"""

from pipeline.annotations.labelled import LabelledImage, LabelledImages, Layout
from pipeline.annotations.reader import read_labelled_images, splits

__all__ = ["LabelledImage", "LabelledImages", "Layout", "read_labelled_images", "splits"]
