"""Run `jobs/benchmark.py proposers`: the accuracy of a detector with each proposer, on several data sets.

Selective search, the fitted grid and an RPN are used with the same backbone, weights, solver and seeds, and
compared with torchvision's Faster R-CNN by its recipe. This is `jobs/ablate.py --comparisons faster_rcnn` on
each data set. Run again with the same --output, it continues.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.config import ProposersConfig
from benchmarks.results import write_results
from pipeline import ablate
from pipeline.ablation.config import AblateConfig
from pipeline.ablation.table import mean_and_range
from pipeline.annotations import splits


def run(config: ProposersConfig) -> None:
    """Train, measure, print the table, and write proposers.md and results.json."""
    results: dict[str, list[dict[str, Any]]] = {}
    for data in config.data:
        name = data.rstrip("/").rpartition("/")[2]
        rows = ablate.run(ablation(config, data, str(config.output / name)))
        assert rows is not None  # only a dry run gives None
        results[name] = rows
    lines = table(results)
    write_results(config, results)
    (config.output / "proposers.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def ablation(config: ProposersConfig, data: str, output: str) -> AblateConfig:
    """Give the flags of `jobs/ablate.py` for one data set."""
    given = asdict(config)
    del given["data"], given["output"]
    return AblateConfig(
        **given,
        data=data,
        output=output,
        comparisons=("faster_rcnn",),
        preset="modern",
        split="trainval" if "trainval" in splits(data) else "train",
    )


def table(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Write the table in Markdown: one line per data set and setting, with mean and range over the seeds."""
    lines = [
        "| data | detector and its proposals | VOC07 mAP | recall of the best 300, IoU .5 | average recall"
        " | image, ms |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for data, rows in results.items():
        for setting in dict.fromkeys(row["setting"] for row in rows):
            seeds = [row for row in rows if row["setting"] == setting]
            cells = [
                mean_and_range([100 * row["map"] for row in seeds], 1),
                mean_and_range([row["recall"] for row in seeds]),
                mean_and_range([row["average_recall"] for row in seeds]),
                f"{1000 * min(row['image_seconds'] for row in seeds):.0f}",
            ]
            lines.append(f"| {data} | {setting} | {' | '.join(cells)} |")
    return lines
