"""Curves as PNGs: the losses and validations of a training, and precision against recall."""

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
# Okabe and Ito's palette: colour-blind readers can tell the colours apart, also in grey.
# The same palette for classes; more classes than colours change the line style too.
_CLASS_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_ROWS = 22  # classes that fit into the height of the picture
_STYLES = ("-", "--", ":", "-.")


def loss_curves(curves: dict[str, Any]) -> bytes:
    """PNG of the losses of every step, smoothed, and of the validation mAP where there is one.

    Args:
        curves: `steps`: rows with iteration and the losses; `validations`: rows with iteration and val_map.
    """
    steps, validations = curves["steps"], curves["validations"]
    figure = _figure(8, 4.5)
    axes = figure.subplots()
    iterations = [row["iteration"] for row in steps]
    window = max(1, len(steps) // 50)
    for name, color in _LOSS_COLOURS.items():
        if steps and name not in steps[0]:
            continue  # of an RPN
        values = np.array([row[name] for row in steps])
        axes.plot(iterations, values, color=color, alpha=0.15, linewidth=0.8)
        smooth = np.convolve(values, np.ones(window) / window, mode="valid")
        axes.plot(iterations[window - 1 :], smooth, color=color, label=name)
    axes.set(xlabel="iteration", ylabel=f"loss (mean of {window} steps)", ylim=(0, None))
    handles, labels = axes.get_legend_handles_labels()
    if validations:
        right = axes.twinx()
        right.plot(
            [row["iteration"] for row in validations],
            [row["val_map"] for row in validations],
            color="#009e73",
            marker="o",
            label="validation mAP (VOC07)",
        )
        right.set(ylabel="mAP", ylim=(0, 1))
        more, names = right.get_legend_handles_labels()
        handles, labels = handles + more, labels + names
    axes.legend(handles, labels, loc="upper center", ncols=4, fontsize="small")
    return _png(figure)


def draw_precision_recall(result: VOCResult, classes: Sequence[str], title: str) -> bytes:
    """A PNG of the curves of every class that has ground truth, best average precision first.

    Drawn is the curve that average precision is the area of: the best precision at that recall or a higher.
    """
    drawn = [k for k in np.argsort(-result.ap, kind="stable") if np.isfinite(result.ap[k])]
    columns = -(-len(drawn) // _ROWS)
    figure = _figure(6.5 + 1.9 * columns, 5)
    axes = figure.add_subplot()
    lines = []
    for place, k in enumerate(drawn):
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
    if drawn:
        names = [f"{result.ap[k]:.3f}  {classes[k]}" for k in drawn]
        legend = figure.legend(
            lines, names, loc="outside right upper", fontsize="small", ncols=columns
        )
        for text in legend.get_texts():
            text.set_parse_math(False)  # a class may be called "5$" or "$x"
    return _png(figure)


def _figure(width: float, height: float) -> Figure:
    """An empty figure, in inches. The object API: pyplot's global state has no place in a library."""
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _png(figure: Figure) -> bytes:
    sink = io.BytesIO()
    figure.savefig(sink, format="png")
    return sink.getvalue()
