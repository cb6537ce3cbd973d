"""Labelled images in any known format -> boxes xyxy in the image frame.

Only the modules of this package know 1-based corners, xywh and normalised boxes. `formats.FORMATS` lists
the formats. `read_labelled_images` recognises the format of a data set by its files and reads one split;
`splits` lists the splits,
`list_files` the files.
"""

from pipeline.annotations.labelled import LabelledImage, LabelledImages
from pipeline.annotations.reader import list_files, read_labelled_images, splits

__all__ = ["LabelledImage", "LabelledImages", "list_files", "read_labelled_images", "splits"]
