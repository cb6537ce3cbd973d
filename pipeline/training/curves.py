"""Loss and validation curves as a PNG."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

COLORS = {"loss": "#000000", "classification": "#0072b2", "localization": "#d55e00"} | {
    "loss_objectness": "#56b4e9",
    "loss_rpn_box": "#e69f00",
}
"""Okabe and Ito's palette: told apart by colour-blind readers and in grey."""


def loss_curves(curves: dict[str, Any]) -> bytes:
    """PNG of the losses of every step, smoothed, and of the validation mAP where there is one.

    Args:
        curves: `steps`: rows with iteration and the losses; `validations`: rows with iteration and val_map.
    """
    steps, validations = curves["steps"], curves["validations"]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    iterations = [row["iteration"] for row in steps]
    window = max(1, len(steps) // 50)
    for name, color in COLORS.items():
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
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
