"""Run `jobs/benchmark.py recipe`: what each part of a training recipe gains, on several data sets.

SGD, AdamW, and AdamW with each other part (an average of the weights, repeat factors, crops) are used with
the same backbone, initial weights, number of steps and seeds. This is `jobs/ablate.py --comparisons recipe`
on each data set. Images of the test split are not used: without a validation split, a share of the training
images is left out. The tables are written after each training. Run again with the same --output, it
continues.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.config import RecipeConfig
from benchmarks.results import write_results
from pipeline import ablate
from pipeline.ablation.config import AblateConfig
from pipeline.ablation.table import recipe_lines
from pipeline.annotations import splits
from pipeline.annotations.names import validation_split


def run(config: RecipeConfig) -> None:
    """Train, measure, print the table, and write recipe.md and results.json after each data set."""
    results: dict[str, list[dict[str, Any]]] = {}
    for data in config.data:
        name = data.rstrip("/").rpartition("/")[2]
        rows = ablate.run(ablation(config, data, str(config.output / name)))
        assert rows is not None  # only a dry run gives None
        results[name] = rows
        write_results(config, results)
        (config.output / "recipe.md").write_text(table(results))
    print(table(results), end="")


def ablation(config: RecipeConfig, data: str, output: str) -> AblateConfig:
    """Give the flags of `jobs/ablate.py` for one data set."""
    given = asdict(config)
    del given["data"], given["output"], given["iterations"], given["val_fraction"]
    validation = validation_split("train", splits(data))
    return AblateConfig(
        **given,
        data=data,
        output=output,
        comparisons=("recipe",),
        preset="modern",
        proposals="rpn",
        split="train",
        set=(f"iterations={config.iterations}",),
        **(
            {"val_fraction": config.val_fraction}
            if validation is None
            else {"test_split": validation}
        ),
    )


def table(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Write the tables of all data sets in Markdown."""
    sections = [
        "\n".join([f"## {data}", "", *recipe_lines(rows)]) for data, rows in results.items()
    ]
    return "\n\n".join(sections) + "\n"
