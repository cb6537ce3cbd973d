"""Draws curves as PNG files: the losses and validations of a training, and precision against recall."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fastrcnn.metrics import VOCResult

_LOSS_COLOURS = {"loss": "#000000", "classification": "#0072b2", "localization": "#d55e00"} | {
    "loss_objectness": "#56b4e9",
    "loss_rpn_box": "#e69f00",
}
# The palette of Okabe and Ito: colour-blind readers can tell the colours apart, and they differ in grey too.
# Classes have the same palette. If there are more classes than colours, the line style changes too.
_CLASS_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_VALIDATION_LINES = {
    "val_map": ("validation mAP (VOC07)", "-"),
    "val_map50_95": ("validation mAP, IoU .5 to .95", "--"),
}
"""Label and style of the line of each metric."""
_ROWS = 22  # rows of the legend that fit into the height of the picture
_STYLES = ("-", "--", ":", "-.")


def loss_curves(curves: dict[str, Any]) -> bytes:
    """Draw the losses of every step and their moving mean, and the validation mAP if there is one.

    Args:
        curves: `steps`: rows with iteration and the losses; `validations`: rows with iteration, val_map and
            val_map50_95, which older trainings lack.

    Returns:
        The bytes of a PNG.
    """
    steps, validations = curves["steps"], curves["validations"]
    figure = _figure(8, 4.5)
    axes = figure.subplots()
    iterations = [row["iteration"] for row in steps]
    window = max(1, len(steps) // 50)
    for name, color in _LOSS_COLOURS.items():
        if steps and name not in steps[0]:
            continue  # a loss of the RPN, and the model has none
        values = np.array([row[name] for row in steps])
        axes.plot(iterations, values, color=color, alpha=0.15, linewidth=0.8)
        smooth = np.convolve(values, np.ones(window) / window, mode="valid")
        axes.plot(iterations[window - 1 :], smooth, color=color, label=name)
    axes.set(xlabel="iteration", ylabel=f"loss (mean of {window} steps)", ylim=(0, None))
    handles, labels = axes.get_legend_handles_labels()
    if validations:
        right = axes.twinx()
        for metric, (label, style) in _VALIDATION_LINES.items():
            right.plot(
                [row["iteration"] for row in validations if metric in row],
                [row[metric] for row in validations if metric in row],
                style,
                color="#009e73",
                marker="o",
                label=label,
            )
        right.set(ylabel="mAP", ylim=(0, 1))
        right_handles, names = right.get_legend_handles_labels()
        handles, labels = handles + right_handles, labels + names
    axes.legend(handles, labels, loc="upper center", ncols=4, fontsize="small")
    return _png(figure)


def draw_precision_recall(result: VOCResult, classes: Sequence[str], title: str) -> bytes:
    """Draw the precision-recall curve of every class that has ground truth, best average precision first.

    The curve is the one whose area is the average precision: at each recall, the best precision at this or a
    higher recall.

    Args:
        result: the curves and the average precision of the K classes.
        classes: K names; label k is `classes[k - 1]`.
        title: the title of the picture.

    Returns:
        The bytes of a PNG.
    """
    shown_classes = [k for k in np.argsort(-result.ap, kind="stable") if np.isfinite(result.ap[k])]
    columns = -(-len(shown_classes) // _ROWS)
    figure = _figure(6.5 + 1.9 * columns, 5)
    axes = figure.add_subplot()
    lines = []
    for place, k in enumerate(shown_classes):
        curve = result.curves[k]
        best = np.maximum.accumulate(curve.precision[::-1])[::-1]
        lines += axes.plot(
            np.append(np.zeros(min(1, len(best))), curve.recall),
            np.append(best[:1], best),
            drawstyle="steps-pre",
            color=_CLASS_COLOURS[place % len(_CLASS_COLOURS)],
            linestyle=_STYLES[place // len(_CLASS_COLOURS) % len(_STYLES)],
        )
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.02))
    axes.set_title(title, parse_math=False)
    axes.grid(alpha=0.3)
    if shown_classes:
        names = [f"{result.ap[k]:.3f}  {classes[k]}" for k in shown_classes]
        legend = figure.legend(
            lines, names, loc="outside right upper", fontsize="small", ncols=columns
        )
        for text in legend.get_texts():
            text.set_parse_math(False)  # a class name may hold "$", which would begin a formula
    return _png(figure)


def _figure(width: float, height: float) -> Figure:
    """Make an empty figure; width and height in inches.

    It uses matplotlib's object API, because pyplot would change global state.
    """
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _png(figure: Figure) -> bytes:
    sink = io.BytesIO()
    figure.savefig(sink, format="png")
    return sink.getvalue()
