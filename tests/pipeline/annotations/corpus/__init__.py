"""Data sets as people have them, each with the expected boxes or the expected message."""

from __future__ import annotations

from tests.pipeline.annotations.corpus import (
    any_layout,
    coco_sets,
    darknet,
    habits,
    refused,
    strangers,
    tables,
    voc,
    yolo,
)
from tests.pipeline.annotations.corpus.kit import (
    DOG,
    HEAD,
    IMAGE,
    LINE,
    XML,
    Box,
    Case,
    Files,
    coco,
    picture,
    row,
    write,
)

__all__ = ["DOG", "HEAD", "IMAGE", "LINE", "XML", "Box", "Case", "Files"]
__all__ += ["coco", "corpus", "picture", "row", "write"]

GROUPS = (
    voc.siblings,
    voc.split_folders,
    voc.labelimg,
    coco_sets.coco_cases,
    yolo.yolo,
    yolo.yolo_names,
    yolo.poses,
    yolo.lists,
    darknet.darknet,
    darknet.labelimg_yolo,
    tables.tables,
    tables.open_images,
    habits.names_of_files,
    habits.texts,
    any_layout.litter,
    any_layout.letters,
    any_layout.splits,
    any_layout.wrapped,
    refused.other_tools,
    refused.unknown,
    refused.refused,
    strangers.encodings,
    strangers.units,
    strangers.classes,
    strangers.places,
    strangers.tools,
)


def corpus() -> list[Case]:
    """Make all cases."""
    cases = [case for group in GROUPS for case in group()]
    names = [case.name for case in cases]
    assert len(set(names)) == len(names), "each case has its name"
    return cases
