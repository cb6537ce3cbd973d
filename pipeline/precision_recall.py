"""The picture of precision against recall, one line a class."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fastrcnn.metrics import VOCResult

# Okabe and Ito's palette, which colour-blind people can tell apart; more classes change the line style too.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_ROWS = 22  # classes that fit into the height of the picture
_STYLES = ("-", "--", ":", "-.")


def draw_precision_recall(result: VOCResult, classes: Sequence[str], title: str) -> bytes:
    """A PNG of the curves of every class that has ground truth, best average precision first.

    Drawn is the curve that average precision is the area of: the best precision at that recall or a higher.
    """
    drawn = [k for k in np.argsort(-result.ap, kind="stable") if np.isfinite(result.ap[k])]
    columns = -(-len(drawn) // _ROWS)
    # The object API: pyplot's global state has no place in a library.
    figure = Figure(figsize=(6.5 + 1.9 * columns, 5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    lines = []
    for place, k in enumerate(drawn):
        curve = result.curves[k]
        best = np.maximum.accumulate(curve.precision[::-1])[::-1]
        lines += axes.plot(
            np.append(np.zeros(min(1, len(best))), curve.recall),
            np.append(best[:1], best),
            drawstyle="steps-pre",
            color=_COLOURS[place % len(_COLOURS)],
            linestyle=_STYLES[place // len(_COLOURS) % len(_STYLES)],
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
    sink = io.BytesIO()
    figure.savefig(sink, format="png")
    return sink.getvalue()
