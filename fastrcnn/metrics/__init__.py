"""Quality of boxes: average precision by the rules of VOC and of COCO, precision and recall at a score, the
calibration error, operating points with what is right, wrong and missed there, and the recall of proposals.

Legend: N images; D detections, P proposals and G ground-truth objects of one image; K classes.
Boxes are (x1, y1, x2, y2) with continuous edges. Labels are 1..K. Arrays with one entry for each class are
indexed by label - 1.
"""

from fastrcnn.metrics.coco import MOST_DETECTIONS, COCOResult, evaluate_coco
from fastrcnn.metrics.inputs import ImageDetections, ImageGroundTruth
from fastrcnn.metrics.matching import Matches, match_boxes
from fastrcnn.metrics.operating import (
    AtScore,
    ScoreQuality,
    at_score,
    best_f1_thresholds,
    expected_calibration_error,
    score_quality,
)
from fastrcnn.metrics.points import (
    KINDS,
    OperatingPoint,
    Outcomes,
    best_thresholds,
    confusion,
    operating_points,
    outcomes,
)
from fastrcnn.metrics.recall import ProposalRecall, proposal_recall
from fastrcnn.metrics.reliability import Reliability, reliability
from fastrcnn.metrics.score_shift import (
    ScoreHistogram,
    Shift,
    find_shifts,
    histogram_of,
    measured_histogram,
    score_shift,
)
from fastrcnn.metrics.voc import (
    Method,
    PrecisionRecall,
    VOCResult,
    average_precision,
    evaluate_map50_95,
    evaluate_voc,
)

__all__ = [
    "KINDS",
    "MOST_DETECTIONS",
    "AtScore",
    "COCOResult",
    "ImageDetections",
    "ImageGroundTruth",
    "Matches",
    "Method",
    "OperatingPoint",
    "Outcomes",
    "PrecisionRecall",
    "ProposalRecall",
    "Reliability",
    "ScoreHistogram",
    "ScoreQuality",
    "Shift",
    "VOCResult",
    "at_score",
    "average_precision",
    "best_f1_thresholds",
    "best_thresholds",
    "confusion",
    "evaluate_coco",
    "evaluate_map50_95",
    "evaluate_voc",
    "expected_calibration_error",
    "find_shifts",
    "histogram_of",
    "match_boxes",
    "measured_histogram",
    "operating_points",
    "outcomes",
    "proposal_recall",
    "reliability",
    "score_shift",
    "score_quality",
]
