"""Write the results of trials as one table: Markdown, Parquet, and a bar chart (PNG)."""

from __future__ import annotations

import io
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pipeline.ablation.config import AblateConfig, Row
from pipeline.schema import encode_parquet

TABLE = pa.schema(
    [
        pa.field("comparison", pa.string(), nullable=False),
        pa.field("setting", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("map", pa.float64()),  # VOC07, 0 to 1
        pa.field("ap", pa.map_(pa.string(), pa.float64())),  # AP by class name
        pa.field("step_seconds", pa.float64()),  # median over training steps
        pa.field("image_seconds", pa.float64()),  # median time to detect on one image
        pa.field(
            "recall", pa.float64()
        ),  # at IoU .5, with the best 300 proposals of each test image
        pa.field("average_recall", pa.float64()),  # the same, averaged over IoU .5 to 1
        pa.field("iterations", pa.int64()),
        pa.field("paper", pa.string()),
        pa.field("training", pa.string(), nullable=False),  # folder under trials/
        pa.field("coco_ap", pa.float64()),  # averaged over IoU .5 to .95, 0 to 1
        pa.field("ap50", pa.float64()),  # COCO's AP at IoU .5
    ]
)


def results_of(
    rows: Sequence[Row], trials: Mapping[str, Mapping[str, Any] | None]
) -> list[dict[str, Any]]:
    """Give one result for each row whose trial is finished, with the columns of `TABLE`."""
    results = []
    for row in rows:
        trial = trials[row.training.name]
        test = None if trial is None else trial["tests"].get(row.test.name)
        if trial is None or test is None:
            continue
        results.append(
            {
                "comparison": row.comparison,
                "setting": row.setting,
                "seed": row.training.seed,
                "map": test["map"],
                "ap": test["ap"],
                "step_seconds": trial["step_seconds"],
                "image_seconds": test["image_seconds"],
                "recall": trial["recall"],
                "average_recall": trial["average_recall"],
                "iterations": trial["iterations"],
                "paper": row.paper,
                "training": row.training.name,
                "coco_ap": test.get("coco_ap"),  # not measured before 2026-11-30
                "ap50": test.get("ap50"),
            }
        )
    return results


def as_parquet(results: Sequence[Mapping[str, Any]]) -> bytes:
    """Write the results as a Parquet file with the schema `TABLE`."""
    rows = [{**row, "ap": list(row["ap"].items())} for row in results]
    return encode_parquet(pa.Table.from_pylist(rows, schema=TABLE), metadata={})


def as_markdown(config: AblateConfig, results: Sequence[Mapping[str, Any]]) -> str:
    """Write one section per comparison, one line per setting: mean and range over the seeds."""
    lines = [
        f"# Ablations of {config.backbone} on {config.data.rstrip('/').rpartition('/')[2]}",
        "",
        f"{config.preset} preset, weights {config.weights.rpartition('/')[2]}, proposals"
        f" {config.proposals}, scale {config.scale}, {config.epochs:g} epochs of `{config.split}`,"
        f" tested on `{config.test_split}`; seeds {', '.join(map(str, config.seeds))};"
        f" {config.cpus_per_trial:g} CPU(s) per trial, {platform.processor() or platform.machine()}."
        " mAP is by the rules of VOC07, in per cent. Times are medians; on a shared machine they are noisy."
        " The numbers of the paper are for VOC 2007, models S, M and L, on a K40.",
    ]
    for comparison in dict.fromkeys(row["comparison"] for row in results):
        lines += ["", f"## {comparison}", ""]
        lines += ["| setting | mAP | step, ms | image, ms | steps | paper |"]
        lines += ["| --- | ---: | ---: | ---: | ---: | --- |"]
        of_comparison = [row for row in results if row["comparison"] == comparison]
        for setting in dict.fromkeys(row["setting"] for row in of_comparison):
            seeds = [row for row in of_comparison if row["setting"] == setting]
            lines.append(_line(setting, seeds))
        if comparison in ("proposers", "faster_rcnn"):
            lines += ["", *_recall_lines(of_comparison)]
        if comparison == "recipe":
            lines += ["", *recipe_lines(of_comparison)]
        if comparison == "sampling":
            lines += ["", _sampling_note(config, of_comparison)]
    return "\n".join(lines) + "\n"


def _recall_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Write the table of proposal recall, one line per setting: mean and range over the seeds."""
    lines = [
        "| proposals, best 300 of each test image | recall at IoU .5 | average recall | mAP |",
        "| --- | ---: | ---: | ---: |",
    ]
    for setting in dict.fromkeys(row["setting"] for row in rows):
        seeds = [row for row in rows if row["setting"] == setting]
        recall, average = (
            mean_and_range([row[n] for row in seeds]) for n in ("recall", "average_recall")
        )
        mean = mean_and_range([100 * row["map"] for row in seeds], 1)
        lines.append(f"| {setting} | {recall} | {average} | {mean} |")
    return lines


def recipe_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Write COCO's measures and the time of a step, one line per setting: mean and range over the seeds."""
    lines = ["| setting | AP50 | COCO AP | step, ms |", "| --- | ---: | ---: | ---: |"]
    for setting in dict.fromkeys(row["setting"] for row in rows):
        seeds = [row for row in rows if row["setting"] == setting]
        # A trial of before 2026-11-30 has no COCO measures.
        measured = [row for row in seeds if row["ap50"] is not None]
        ap50, ap = (
            mean_and_range([row[name] for row in measured]) if measured else "-"
            for name in ("ap50", "coco_ap")
        )
        step = 1000 * min(row["step_seconds"] for row in seeds)
        lines.append(f"| {setting} | {ap50} | {ap} | {step:.0f} |")
    return lines


def mean_and_range(values: Sequence[float], digits: int = 3) -> str:
    """Write the mean; with several values, also the range."""
    mean = f"{sum(values) / len(values):.{digits}f}"
    if len(values) == 1:
        return mean
    return f"{mean} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def _line(setting: str, seeds: Sequence[Mapping[str, Any]]) -> str:
    """Write the line of one setting. Times are the smallest over the seeds."""
    mean = mean_and_range([100 * row["map"] for row in seeds], 1)
    step, image = (
        f"{1000 * min(row[name] for row in seeds):.0f}"
        for name in ("step_seconds", "image_seconds")
    )
    first = seeds[0]
    return f"| {setting} | {mean} | {step} | {image} | {first['iterations']} | {first['paper']} |"


def _sampling_note(config: AblateConfig, rows: Sequence[Mapping[str, Any]]) -> str:
    """Explain the step times of the comparison `sampling`."""
    steps = [row["step_seconds"] for row in rows]
    return (
        f"With the same number of RoIs, a step of RoI-centric sampling took {max(steps) / min(steps):.0f}"
        f" times as long. It runs {config.rois_per_image} times as many images through the convolutional"
        " layers, one RoI from each; the work of the head is the same. (The trials ran at different times, so"
        " other work on the machine changes the ratio.) Both rows used every image equally often, so"
        f" RoI-centric sampling took {config.rois_per_image} times fewer steps."
    )


def as_png(results: Sequence[Mapping[str, Any]]) -> bytes:
    """Draw one bar per setting, grouped by comparison. The bar is the mean over seeds; dots are the seeds."""
    comparisons = list(dict.fromkeys(row["comparison"] for row in results))
    bars = [
        (comparison, setting)
        for comparison in comparisons
        for setting in dict.fromkeys(
            row["setting"] for row in results if row["comparison"] == comparison
        )
    ]
    figure = Figure(figsize=(9, 1.2 + 0.34 * (len(bars) + len(comparisons))), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    y, ticks, names = 0.0, [], []
    for index, comparison in enumerate(comparisons):
        for _, setting in (bar for bar in bars if bar[0] == comparison):
            maps = [
                100 * row["map"]
                for row in results
                if (row["comparison"], row["setting"]) == (comparison, setting)
            ]
            mean = sum(maps) / len(maps)
            axes.barh(y, mean, color="#0072b2" if index % 2 else "#56b4e9")
            axes.plot(maps, [y] * len(maps), "k.", markersize=4)
            axes.text(max(maps) + 1, y, f"{mean:.1f}", va="center", fontsize="small")
            ticks.append(y)
            names.append(f"{comparison}: {setting}")
            y += 1
        y += 0.6
    axes.set_yticks(ticks, names, fontsize="small")
    axes.invert_yaxis()
    axes.set(xlabel="mAP (VOC07), per cent; dots are seeds", xlim=(0, 105))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
