"""Compute rates of scored rows for `jobs/benchmark.py score`, and write its tables."""

from __future__ import annotations

import io
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from pipeline import storage


def scored_at(uri: str) -> npt.NDArray[np.int64]:
    """Read `scored_at` of all rows in the Parquet files below a URI: sorted, in microseconds."""
    files = [i.uri for i in storage.list_objects(uri) if i.uri.endswith(".parquet")]
    tables = [
        pq.read_table(io.BytesIO(storage.read_bytes(file)), columns=["scored_at"]) for file in files
    ]
    times = [table["scored_at"].to_numpy().astype("int64") for table in tables]
    return np.sort(np.concatenate(times))


def middle_rate(times: npt.NDArray[np.int64]) -> float:
    """Give rows per second, without the first tenth and the last twentieth of the rows.

    Args:
        times: sorted, in microseconds. All rows of a batch have the same time.
    """
    first, last = np.quantile(times, [0.1, 0.95], method="nearest")
    rows = int(((times > first) & (times <= last)).sum())
    return rows / (float(last - first) / 1e6)


def rate_of_all(times: npt.NDArray[np.int64], count: int) -> float:
    """Give the middle rate of `count` rows, whose times come in any order.

    Raises:
        RuntimeError: there are more or fewer rows.
    """
    if len(times) != count:
        raise RuntimeError(f"expected {count} rows, got {len(times)}")
    return middle_rate(np.sort(times))


def median_ratio(one: Sequence[float], other: Sequence[float]) -> float:
    """Give the median over the rounds of the ratio of two rates."""
    return statistics.median(a / b for a, b in zip(one, other, strict=True))


def comparison_lines(results: dict[str, Any]) -> list[str]:
    """Write the table that compares detector, scoring job and Ray's example."""
    lines = [f"{'':<50}{'images/s':>10}{'of the detector':>18}"]
    for name, rates, ratio in (
        ("detector alone, images in memory", "bare", 1),
        ("scoring job, images to Parquet", "chain", results["ratio"]),
        (
            "Ray's example, images to Parquet, with an RPN",
            "ray_example",
            results["ray_example_ratio"],
        ),
    ):
        median = statistics.median(results[f"{rates}_images_per_second"])
        lines.append(f"{name:<50}{median:>10.2f}{ratio:>18.2f}")
    if "daft_ratio" in results:
        median = statistics.median(results["daft_images_per_second"])
        name = "Daft, the detector of Ray's example"
        lines.append(f"{name:<50}{median:>10.2f}{results['daft_ratio']:>18.2f}")
    times = results["times_as_fast_as_ray_example"]
    return [*lines, f"ours is {times:.2f} times as fast as Ray's documented example"]


def growth_lines(results: dict[str, Any]) -> list[str]:
    """Write the table of the scoring job for growing numbers of images."""
    rates = results["chain_images_per_second"]
    lines = [f"{'images':>9}{'images/s':>10}{'of the first':>14}{'s, start to end':>17}"]
    for count, rate, seconds in zip(results["counts"], rates, results["seconds"], strict=True):
        lines.append(f"{count:>9}{rate:>10.2f}{rate / rates[0]:>14.2f}{seconds:>17.1f}")
    return lines
