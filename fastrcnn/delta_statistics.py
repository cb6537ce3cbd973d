"""Mean and standard deviation of the box deltas of a training set, by which the paper normalises its targets.

Legend: K classes; R_fg foreground proposals of all images.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastrcnn.boxes import encode
from fastrcnn.loss import Target
from fastrcnn.sampling import sample_rois


def delta_statistics(
    targets: Sequence[Target],
    num_classes: int,
    fg_iou: float = 0.5,
    *,
    class_agnostic: bool = False,
) -> tuple[Tensor, Tensor]:
    """Compute mean and population standard deviation of the foreground proposals' deltas, for each class.

    Ground-truth boxes count as proposals too, as in the reference code (fast-rcnn roidb.py). In that code, a
    class has standard deviation 0, and so NaN targets, if it has no foreground proposal or only perfect ones.
    Here such a class gets the standard deviation over all classes.

    Args:
        targets: the targets of the whole training set.
        num_classes: K.
        fg_iou: a proposal with at least this IoU is foreground.
        class_agnostic: give every class the numbers over all classes, because one output serves all classes.

    Returns:
        delta_mean, delta_std: (K + 1, 4) float32. Background has mean 0 and standard deviation 1,
        except with `class_agnostic`; nothing reads that row.
    """
    labels, deltas = _foreground_deltas(targets, fg_iou)
    mean, std = torch.zeros(num_classes + 1, 4), torch.ones(num_classes + 1, 4)
    if len(deltas) == 0:
        return mean, std
    overall = deltas.std(dim=0, unbiased=False)
    overall = torch.where(overall > 0, overall, torch.ones(4, dtype=overall.dtype))
    if class_agnostic:
        rows = (num_classes + 1, 1)
        return deltas.mean(dim=0).float().repeat(rows), overall.float().repeat(rows)
    for label in range(1, num_classes + 1):
        of_class = deltas[labels == label]
        if len(of_class) == 0:
            std[label] = overall.float()
            continue
        deviation = of_class.std(dim=0, unbiased=False)
        mean[label] = of_class.mean(dim=0).float()
        std[label] = torch.where(deviation > 1e-6, deviation, overall).float()
    return mean, std


def _foreground_deltas(targets: Sequence[Target], fg_iou: float) -> tuple[Tensor, Tensor]:
    """Return labels (R_fg,) int64 and deltas (R_fg, 4) float64 of the foreground proposals of all images."""
    labels, deltas = [torch.zeros(0, dtype=torch.int64)], [torch.zeros(0, 4, dtype=torch.float64)]
    for target in targets:
        fg = sample_rois(
            target.proposals,
            target.gt_boxes,
            target.gt_labels,
            num_rois=len(target.proposals) + len(target.gt_boxes),
            fg_fraction=1.0,
            fg_iou=fg_iou,
            bg_iou=(fg_iou, fg_iou),
            generator=torch.Generator().manual_seed(0),
        )
        labels.append(fg.labels)
        deltas.append(encode(fg.rois.double(), fg.gt_boxes.double()))
    return torch.cat(labels), torch.cat(deltas)
