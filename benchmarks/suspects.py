"""Run `jobs/benchmark.py suspects`: plant faults in labels of drawn scenes, and look for them.

Two trainings, each on the labels with faults of one half of the scenes; each detector scores the other half;
`jobs/suspects.py` compares. The planted truth says what is right.

<output>/true, faulty, repaired   VOC folders; faulty/faults.json has the planted faults
<output>/fold-1, fold-2           trainings and their scores
<output>/suspects                 the suspects
<output>/suspects.md              the tables; results.json has the numbers
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.config import SuspectsBenchmarkConfig
from benchmarks.planted_faults import KINDS, Fault, plant, read_faults
from benchmarks.results import write_results
from benchmarks.trainings import run_once, train_or_continue, weights_of
from demo import processes
from fastrcnn.metrics.inputs import pairwise_iou
from pipeline import storage
from pipeline.config import EvaluateConfig
from pipeline.draw_scenes import draw_split
from pipeline.drawing.scenes import SHAPES
from pipeline.evaluate import run as evaluate
from pipeline.results.suspects_table import read_suspects

_EDGES = ("x_min", "y_min", "x_max", "y_max")
_FOUND = 0.5
"""IoU from which a suspect is at the place of a label that was taken away."""
_SAME = 0.95
"""IoU from which two label boxes are one: VOC files hold whole pixels."""

Row = Mapping[str, Any]


def run(config: SuspectsBenchmarkConfig) -> None:
    """Draw, plant, train, score, look for suspects and measure. Steps that are done are left as they are."""
    processes.end_on_signals()
    processes.adopt_orphans()
    try:
        faults = draw(config)
        for fold in (1, 2):
            train_and_score(config, fold)
        find(config)
        rows = read_suspects(str(config.output / "suspects")).to_pylist()
        results = {
            "suspects": measure(rows, faults, config.first),
            "average_precision": average_precision(config),
        }
        repair(config, rows, faults)
        if config.retrain:
            results["retrained"] = retrain(config)
    except processes.CommandError as error:
        sys.exit(f"benchmark: {error}")
    finally:
        processes.end_all(processes.descendants(os.getpid()))
    write_results(config, results)
    text = table(results, config.first)
    (config.output / "suspects.md").write_text(text)
    print(text, end="")


def draw(config: SuspectsBenchmarkConfig) -> list[Fault]:
    """Draw the scenes, and copy them with planted faults in `train`."""
    true, faulty = config.output / "true", config.output / "faulty"
    if not (faulty / "faults.json").exists():
        for folder in (true, faulty):
            shutil.rmtree(folder, ignore_errors=True)
        draw_split(true, "train", range(config.images), config.seed)
        shutil.copytree(true, faulty)
        plant(faulty, tuple(SHAPES), share=config.share, seed=config.seed)
        last = range(config.images, config.images + config.test)
        for folder in (true, faulty):
            draw_split(folder, "test", last, config.seed)
    return read_faults(faulty)


def train_and_score(config: SuspectsBenchmarkConfig, fold: int) -> None:
    """Train on the other fold, and score this one."""
    folder = config.output / f"fold-{fold}"
    train(config, "faulty", folder, "--folds", "2", "--fold", str(fold))
    listed = str((folder / "splits" / "fold.txt").resolve())
    output = str(folder.resolve())
    flags = ["--images", listed, "--checkpoint", output, "--output", output]
    run_once("score_bucket", flags, folder / "scored.log")


def train(config: SuspectsBenchmarkConfig, data: str, output: Path, *more: str) -> None:
    """Train on the scenes of `data`, or continue a training that was stopped."""
    flags = {
        "data": str((config.output / data).resolve()),
        "output": str(output.resolve()),
        "weights": weights_of(config.weights),
        "iterations": config.iterations,
        "scale": config.scale,
        "seed": config.seed,
    }
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    train_or_continue([*words, *more], folder=output, model=output)


def find(config: SuspectsBenchmarkConfig) -> None:
    """Run the job suspects."""
    folds = [str((config.output / f"fold-{fold}").resolve()) for fold in (1, 2)]
    output = config.output.resolve()
    flags = ["--scored", *folds, "--data", str(output / "faulty")]
    run_once("suspects", [*flags, "--output", str(output / "suspects")], output / "suspects.log")


@dataclass(frozen=True, slots=True)
class Judged:
    """One suspect, and the planted fault that it shows."""

    kind: str
    fault: int | None
    """Index of a fault of this kind. None: there is none, or a better suspect shows it."""
    any_fault: int | None
    """Index of a fault of any kind."""


def judge(rows: Sequence[Row], faults: Sequence[Fault]) -> list[Judged]:
    """Say of each suspect whether it shows a planted fault. A fault counts for its first suspect of a kind.

    A missing label is shown by a detection at its place; its class is not looked at, because a person who
    adds the label chooses the class. The other kinds are shown by the label that has the fault.
    """
    by_image: dict[str, list[int]] = {}
    for number, fault in enumerate(faults):
        by_image.setdefault(fault.image, []).append(number)
    taken: set[int] = set()
    judged = []
    for row in rows:
        stem = storage.basename(row["image_uri"]).rpartition(".")[0]
        shown = [n for n in by_image.get(stem, ()) if _shows(row, faults[n])]
        same = [n for n in shown if faults[n].kind == row["kind"] and n not in taken]
        taken.update(same[:1])
        judged.append(Judged(row["kind"], same[0] if same else None, shown[0] if shown else None))
    return judged


def _shows(row: Row, fault: Fault) -> bool:
    if row["kind"] == "missing_label":
        found = [row[f"found_{edge}"] for edge in _EDGES]
        # Beside a moved label, the object has no label at its place.
        return fault.kind != "wrong_class" and _iou(found, fault.true_box) >= _FOUND
    return fault.box is not None and _iou([row[edge] for edge in _EDGES], fault.box) >= _SAME


def _iou(box: Iterable[float], other: Iterable[float]) -> float:
    return float(pairwise_iou(np.array([list(box)]), np.array([list(other)]))[0, 0])


def measure(rows: Sequence[Row], faults: Sequence[Fault], first: int) -> dict[str, Any]:
    """Measure precision of the first suspects and recall, by kind and for all.

    Args:
        rows: of SUSPECTS, by rank.
    """
    judged = judge(rows, faults)
    numbers: dict[str, Any] = {}
    for kind in KINDS:
        of_kind = [one for one in judged if one.kind == kind]
        planted = sum(fault.kind == kind for fault in faults)
        right = [one.fault is not None for one in of_kind]
        any_kind = [one.any_fault is not None for one in of_kind[:first]]
        numbers[kind] = {
            "planted": planted,
            "suspects": len(of_kind),
            "precision_of_first": sum(right[:first]) / max(1, len(right[:first])),
            "any_fault_in_first": sum(any_kind) / max(1, len(any_kind)),
            "recall_of_first": sum(right[:first]) / max(1, planted),
            "recall": sum(right) / max(1, planted),
        }
    head = judged[:first]
    known = {one.any_fault for one in judged} - {None}
    numbers["all"] = {
        "planted": len(faults),
        "suspects": len(rows),
        "precision_of_first": sum(one.any_fault is not None for one in head) / max(1, len(head)),
        "any_fault_in_first": sum(one.any_fault is not None for one in head) / max(1, len(head)),
        "recall_of_first": len({one.any_fault for one in head} - {None}) / max(1, len(faults)),
        "recall": len(known) / max(1, len(faults)),
    }
    return numbers


def average_precision(config: SuspectsBenchmarkConfig) -> dict[str, float]:
    """Measure the AP of the out-of-fold scores of fold 1 with faults, with suspects taken for right, and with
    true labels."""
    folder = config.output / "fold-1"
    faulty, true = (str((config.output / name).resolve()) for name in ("faulty", "true"))
    listed = (folder / "splits" / "fold.txt").read_text()
    moved = config.output / "fold-of-true.txt"
    moved.write_text(listed.replace(faulty, true))

    def ap(data: str, split: Path, **flags: Any) -> Any:
        output = str(config.output / "evaluation")
        return evaluate(
            EvaluateConfig(
                scored=str(folder), data=(data,), split=str(split), output=output, **flags
            )
        )

    guessed = ap(
        faulty,
        folder / "splits" / "fold.txt",
        suspects=str(config.output / "suspects"),
        first=config.first,
    )
    return {
        "labels with faults": guessed.voc10.mean_ap,
        "if the first suspects were right": guessed.if_right.voc10,
        "true labels": ap(true, moved).voc10.mean_ap,
    }


def repair(config: SuspectsBenchmarkConfig, rows: Sequence[Row], faults: Sequence[Fault]) -> None:
    """Write the folder repaired: labels as after a person who judged all suspects, as the planted truth says.

    An image whose fault is shown gets its true labels of this fault back.
    """
    faulty, repaired = config.output / "faulty", config.output / "repaired"
    shutil.rmtree(repaired, ignore_errors=True)
    shutil.copytree(faulty, repaired)
    shown = {one.any_fault for one in judge(rows, faults)} - {None}
    hidden: dict[str, list[Fault]] = {}
    for number, fault in enumerate(faults):
        if number not in shown:
            hidden.setdefault(fault.image, []).append(fault)
    for image in {fault.image for fault in faults} - hidden.keys():
        name = f"Annotations/{image}.xml"
        shutil.copyfile(config.output / "true" / name, repaired / name)
    (config.output / "repaired.json").write_text(
        json.dumps({"not shown": len(faults) - len(shown)})
    )


def retrain(config: SuspectsBenchmarkConfig) -> dict[str, float]:
    """Train on the labels with faults, on the repaired and on the true ones; measure on the test scenes."""
    numbers = {}
    for name in ("faulty", "repaired", "true"):
        output = config.output / f"trained-on-{name}"
        train(config, name, output)
        scored = str(output.resolve())
        flags = ["--images", str(_test_list(config)), "--checkpoint", scored, "--output", scored]
        run_once("score_bucket", flags, output / "scored.log")
        true = str((config.output / "true").resolve())
        result = evaluate(EvaluateConfig(scored=str(output), data=(true,), split="test"))
        numbers[name] = result.voc10.mean_ap
    return numbers


def _test_list(config: SuspectsBenchmarkConfig) -> Path:
    """Write the list of the test scenes."""
    listed = config.output / "test.txt"
    folder = (config.output / "true" / "JPEGImages").resolve()
    last = range(config.images, config.images + config.test)
    listed.write_text("".join(f"{folder}/{index:06d}.jpg\n" for index in last))
    return listed.resolve()


def table(results: Mapping[str, Any], first: int) -> str:
    """Write the tables."""
    lines = [
        f"| kind | planted | suspects | precision of the first {first} | any fault in them | recall of them"
        " | recall of all |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    names = ("precision_of_first", "any_fault_in_first", "recall_of_first", "recall")
    for kind, row in results["suspects"].items():
        shares = " | ".join(f"{row[name]:.3f}" for name in names)
        lines.append(f"| {kind} | {row['planted']} | {row['suspects']} | {shares} |")
    for title, key in (("fold 1 measured with", "average_precision"), ("trained on", "retrained")):
        if key in results:
            lines += ["", f"| {title} | VOC10 mAP |", "| --- | ---: |"]
            lines += [f"| {name} | {value:.4f} |" for name, value in results[key].items()]
    return "\n".join(lines) + "\n"
