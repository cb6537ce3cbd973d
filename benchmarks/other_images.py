"""Run `jobs/benchmark.py other-images`: what scores are worth on images of another kind, and after the cure.

A detector of drawn scenes scores scenes as it knows them, and the same scenes with other colours and blurred.
Images of the second kind are drawn with `jobs/sample.py`, and the detector is calibrated on them. Both
detectors are measured on the other images of that kind.

<output>/known, other     drawn scenes: VOC folders
<output>/scored-*, sample, calibrated
<output>/other-images.md  the table; results.json has the numbers
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq
from PIL import Image, ImageFilter

from benchmarks.config import OtherImagesConfig
from benchmarks.results import write_results
from benchmarks.trainings import run_once
from demo import processes
from pipeline import storage
from pipeline.config import EvaluateConfig
from pipeline.draw_scenes import draw_split
from pipeline.evaluate import run as evaluate

SPLIT = "test"
JPEG_QUALITY = 90


@dataclass(frozen=True, slots=True)
class _Case:
    """A line of the table."""

    title: str
    images: str
    """Folder of the scenes."""
    scored: str
    """Folder of the scores."""


CASES = (
    _Case("as in the training", "known", "scored-known"),
    _Case("other colours and blurred", "other", "scored-other"),
    _Case("the same, calibrated on a sample", "other", "scored-again"),
)


def run(config: OtherImagesConfig) -> None:
    """Draw, score, sample, calibrate and measure. Steps that are done are left as they are."""
    processes.end_on_signals()
    processes.adopt_orphans()
    try:
        draw(config)
        run_jobs(config)
    except processes.CommandError as error:
        sys.exit(f"benchmark: {error}")
    finally:
        processes.end_all(processes.descendants(os.getpid()))
    listed = unsampled(config)
    results = {case.title: measure(config, case, listed) for case in CASES}
    write_results(config, results)
    text = table(results)
    (config.output / "other-images.md").write_text(text)
    print(text, end="")


def draw(config: OtherImagesConfig) -> None:
    """Draw the scenes, and change a second copy. The images of both have the same names and labels."""
    done = config.output / "other" / "changed"
    if done.exists():
        return
    for name in ("known", "other"):
        draw_split(config.output / name, SPLIT, range(config.images), config.seed)
    for path in (config.output / "other" / "JPEGImages").iterdir():
        with Image.open(path) as image:
            changed = change(image.convert("RGB"), config.blur)
        changed.save(path, quality=JPEG_QUALITY)
    done.touch()


def change(image: Image.Image, blur: float) -> Image.Image:
    """Give the image other colours (green, blue, red), less contrast, and a Gaussian blur of `blur` px."""
    red, green, blue = image.split()
    turned = Image.merge("RGB", (green, blue, red))
    return turned.point(lambda value: 64 + value // 2).filter(ImageFilter.GaussianBlur(blur))


def run_jobs(config: OtherImagesConfig) -> None:
    """Score both kinds, draw the sample, calibrate on it, and score again."""
    output = config.output.resolve()
    checkpoint, calibrated = storage.absolute(config.checkpoint), str(output / "calibrated")

    def score(images: str, model: str, scored: str) -> None:
        flags = ["--images", str(output / images / "JPEGImages"), "--checkpoint", model]
        run_once(
            "score_bucket", [*flags, "--output", str(output / scored)], output / f"{scored}.log"
        )

    score("known", checkpoint, "scored-known")
    score("other", checkpoint, "scored-other")
    sample = ["--scored", str(output / "scored-other"), "--output", str(output / "sample")]
    sample += ["--budget", str(config.sampled), "--seed", str(config.seed)]
    run_once("sample", sample, output / "sample.log")
    cure = ["--checkpoint", checkpoint, "--data", str(output / "other"), "--split", SPLIT]
    cure += ["--sample", str(output / "sample"), "--output", calibrated]
    run_once("calibrate", cure, output / "calibrate.log")
    score("other", calibrated, "scored-again")


def unsampled(config: OtherImagesConfig) -> list[str]:
    """List the names of the scenes that are not in the sample: all cases are measured on them."""
    drawn = pq.read_table(config.output / "sample" / "sample.parquet")["image_uri"].to_pylist()
    names = {storage.basename(uri) for uri in drawn}
    folder = config.output / "other" / "JPEGImages"
    return sorted(path.name for path in folder.iterdir() if path.name not in names)


def measure(config: OtherImagesConfig, case: _Case, names: list[str]) -> dict[str, Any]:
    """Measure a run on these scenes, and say whether it looks unlike the images of its calibration."""
    output = config.output.resolve()
    listed = output / f"{case.scored}.txt"
    listed.write_text("".join(f"{output / case.images / 'JPEGImages' / name}\n" for name in names))
    flags = EvaluateConfig(
        scored=str(output / case.scored), data=(str(output / case.images),), split=str(listed)
    )
    result = evaluate(flags)
    return {
        "images": len(names),
        **result.at_half.as_json(),
        "voc10": result.voc10.mean_ap,
        "warned": None if result.shifts is None else len(result.shifts) > 0,
    }


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Write the table."""
    lines = [
        "| images | precision at .5 | recall at .5 | calibration error | VOC10 mAP | warned |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for title, row in results.items():
        numbers = (row[name] for name in ("precision", "recall", "calibration_error", "voc10"))
        cells = " | ".join("-" if number is None else f"{number:.3f}" for number in numbers)
        lines.append(f"| {title} | {cells} | {'yes' if row['warned'] else 'no'} |")
    return "\n".join(lines) + "\n"
