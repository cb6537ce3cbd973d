"""Draw the plot of `jobs/benchmark.py proposals`."""

from __future__ import annotations

import io
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def recall_against_time(rows: list[dict[str, Any]]) -> bytes:
    """Draw recall at 2000 boxes against ms per image: one panel per data set, one colour per proposer.

    Args:
        rows: from `proposals.summary`.

    Returns:
        A PNG file.
    """
    sets = list(dict.fromkeys(row["data"] for row in rows))
    proposers = list(dict.fromkeys(row["proposer"] for row in rows))
    figure = Figure(figsize=(4 * len(sets), 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(sets), sharey=True, squeeze=False)[0]
    for axes, data in zip(panels, sets, strict=True):
        for number, proposer in enumerate(proposers):
            (row,) = (r for r in rows if (r["data"], r["proposer"]) == (data, proposer))
            best = row["at"][max(row["at"])]
            heights = [best["r70"], best["r50"]]
            axes.plot([row["ms"]] * 2, heights, color=f"C{number}", linewidth=1)
            axes.plot(row["ms"], best["r50"], "o", color=f"C{number}", label=proposer)
            axes.plot(row["ms"], best["r70"], "v", color=f"C{number}")
        axes.set(title=data, xscale="log", xlabel="ms per image on one core", ylim=(0, 1.02))
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("recall at 2000 boxes: IoU .5 (dots), .7 (triangles)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize="small")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
