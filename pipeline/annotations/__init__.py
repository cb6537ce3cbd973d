"""Labelled images in any known format -> boxes xyxy in the image frame.

Only the formats here know 1-based corners, xywh and normalised boxes; `formats.FORMATS` lists them.
`read_labelled_images` recognises the format by the data set's files; `splits` names what there is to read.
"""

from pipeline.annotations.labelled import LabelledImage, LabelledImages
from pipeline.annotations.reader import read_labelled_images, splits

__all__ = ["LabelledImage", "LabelledImages", "read_labelled_images", "splits"]
