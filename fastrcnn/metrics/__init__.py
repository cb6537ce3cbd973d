"""Quality of boxes: average precision by the rules of VOC and of COCO, and the recall of proposals.

Legend: N images; D detections, P proposals and G ground-truth objects of one image; K classes.
Boxes are (x1, y1, x2, y2) with continuous edges. Labels are 1..K. Arrays with one entry for each class are
indexed by label - 1.
"""

from fastrcnn.metrics.coco import COCOResult, evaluate_coco
from fastrcnn.metrics.inputs import ImageDetections, ImageGroundTruth
from fastrcnn.metrics.recall import ProposalRecall, proposal_recall
from fastrcnn.metrics.voc import (
    Method,
    PrecisionRecall,
    VOCResult,
    average_precision,
    evaluate_voc,
)

__all__ = [
    "COCOResult",
    "ImageDetections",
    "ImageGroundTruth",
    "Method",
    "PrecisionRecall",
    "ProposalRecall",
    "VOCResult",
    "average_precision",
    "evaluate_coco",
    "evaluate_voc",
    "proposal_recall",
]
