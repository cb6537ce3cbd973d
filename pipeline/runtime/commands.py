"""The jobs: name, config, work and words of each, for `jobs/X.py`, `python -m pipeline` and `fastrcnn-ray`.

A job's modules are named by strings: they are imported when it runs, its config when its flags are read.
"""

from __future__ import annotations

import difflib
import importlib
import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from fastrcnn import __version__
from pipeline.runtime import cli
from pipeline.runtime.help import WIDEST

PACKAGE = "fastrcnn-ray"


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """One job."""

    name: str
    """As `fastrcnn-ray NAME`."""
    config: str
    """MODULE:CLASS of its flags."""
    run: str
    """MODULE:FUNCTION that takes the config."""
    summary: str
    """What it does, in one line."""
    description: str = ""
    """More for --help: paragraphs."""
    script: str = ""
    """The file in jobs/, without .py, where its name is another one."""
    on_ray: bool = True
    """Whether it may be submitted to a Ray cluster."""

    @property
    def file(self) -> str:
        return f"jobs/{self.script or self.name.replace('-', '_')}.py"


_TRAIN = """
Run again with the same --output, it continues where it stopped.

What is learned: a VOC, LabelImg, COCO or YOLO data set, recognised by its files. Proposals are computed
once across the cluster and cached. The output gets checkpoints, metrics and curves.
"""
_SCORE = """
Writes one row per image to OUTPUT/scored/<run_id>/*.parquet: its boxes, or a status that says why there are
none. Run the same command again and it continues, or scores what is new or changed since. Another
checkpoint's results are written beside these.

A prefix takes the objects whose names end in an image suffix (in any case) and counts the others; a glob
takes what it matches; a list (.txt, .csv, .parquet of URIs) takes every URI it names. S3 endpoint, region
and credentials come from the AWS variables on every worker. Broken images are rows, not failures of the
job.
"""
_COMPACT = """
Makes OUTPUT/detections/<run_id>.parquet of each scoring run: one row per box, sorted by label and falling
score, so that a question about one class reads little of it. Of an image that was scored again only the
newest row counts. Readers see the old table until the new one is complete. Run again, it does nothing, or
adds what was scored since.

Sorting uses this machine's disk (--temp-folder), whatever the size of the run; memory is bounded
(--memory-gib).
"""
_REPORT = """
The page is OUTPUT/report/<run_id>.html, or OUTPUT itself where it ends in .html. It shows images by status,
boxes by class, scores, sizes, throughput, failures with examples, pictures with their boxes, and accuracy
where --data has the truth. It holds all it needs, loads nothing, and opens from a disk or a bucket.

The pictures are small copies of the images: everybody who may read the page sees them.
"""
_EXPORT = """
coco: a results file for pycocotools, with --ids in the ids of an annotation file. fiftyone: a
FiftyOneImageDetectionDataset. labelstudio: tasks with the boxes as predictions, and the labelling
interface. Images that could not be read are left out; images without boxes are not.

iceberg, delta: one row per box in a lake's table, replaced in one commit by Ray Data's writers (needs the
extra of that name). --output is then NAMESPACE.TABLE of pyiceberg's catalogue "default", or the folder of
the Delta table.

FiftyOne needs local paths and Label Studio needs URLs that a browser can open: --image-root says where the
images are.
"""
_COMPRESS = """
Keeps the largest singular values of fc6 and fc7, without training again (Fast R-CNN, section 3.1: VGG16
detects in .22 s instead of .32 s and loses .3 points of mAP). The new checkpoint is scored like any other.
"""
_ABLATE = """
One trial per training and slot of the cluster (Ray Tune), one table with the paper's numbers beside.
Comparisons: sampling, multi_task, scales, svd, svm, proposals, layers, class_agnostic. Only where they are
named: roi_heads (torchvision's on the same proposals), proposers (opencv, selective_search, grid, rpn; with
the recall of their best 300) and faster_rcnn (torchvision's by its recipe beside ours with
selective_search, grid and rpn).

Run again with the same --output, it continues where it stopped.
"""
_DRAW = """
OUTPUT/shapes is a VOC folder: circles, crosses, rings, squares and triangles on textured backgrounds.
OUTPUT/inbox holds files to score, a tenth of them broken on purpose. Needs no Ray.
"""
_IMPORT = """
Reads fast-rcnn's .mat, detectron2's and mmdetection's .pkl, and writes a table that --proposals reads.
Proposals are matched by the images' names, never by order; a pickle is read without running it. Needs no
Ray.
"""
_EXPORT_PROPOSALS = """
The detector was trained with --proposals rpn; the table is one that --proposals of train and score reads,
for other detectors. Run again, it continues.
"""

COMMANDS = (
    Command(
        name="train",
        config="pipeline.config:TrainConfig",
        run="pipeline.train:run",
        summary="Fine-tune Fast R-CNN on labelled images, data-parallel over Ray Train workers.",
        description=_TRAIN,
    ),
    Command(
        name="score",
        config="pipeline.config:ScoreConfig",
        run="pipeline.score:run",
        summary="Detect objects in every image of a bucket, on Ray Data actors.",
        description=_SCORE,
        script="score_bucket",
    ),
    Command(
        name="evaluate",
        config="pipeline.config:EvaluateConfig",
        run="pipeline.evaluate:run",
        summary="Measure the boxes of a scoring run against the truth: VOC07, VOC10, COCO.",
        description="Average precision over all classes and of each, with precision-recall curves.",
    ),
    Command(
        name="compact",
        config="pipeline.config.results:CompactConfig",
        run="pipeline.compact:run",
        summary="Make one flat table of boxes of each scoring run, sorted for queries.",
        description=_COMPACT,
    ),
    Command(
        name="report",
        config="pipeline.config.results:ReportConfig",
        run="pipeline.report:run",
        summary="Make one HTML page of a scoring run.",
        description=_REPORT,
    ),
    Command(
        name="export",
        config="pipeline.config.results:ExportConfig",
        run="pipeline.export:run",
        summary="Write the boxes of a scoring run for other tools.",
        description=_EXPORT,
    ),
    Command(
        name="compress",
        config="pipeline.config.tools:CompressConfig",
        run="pipeline.compress:run",
        summary="Make a smaller, faster detector by truncating fc6 and fc7.",
        description=_COMPRESS,
    ),
    Command(
        name="ablate",
        config="pipeline.ablation.config:AblateConfig",
        run="pipeline.ablate:run",
        summary="Run the comparisons of the Fast R-CNN paper on your labelled images.",
        description=_ABLATE,
    ),
    Command(
        name="draw-scenes",
        config="pipeline.config.tools:DrawConfig",
        run="pipeline.draw_scenes:run",
        summary="Draw a small labelled data set, and files to score.",
        description=_DRAW,
        on_ray=False,
    ),
    Command(
        name="import-proposals",
        config="pipeline.config.tools:ImportConfig",
        run="pipeline.import_proposals:run",
        summary="Turn other programs' proposals into a table.",
        description=_IMPORT,
        on_ray=False,
    ),
    Command(
        name="export-proposals",
        config="pipeline.config.tools:ExportProposalsConfig",
        run="pipeline.export_proposals:run",
        summary="Write a detector's proposals as a table for other detectors.",
        description=_EXPORT_PROPOSALS,
    ),
)


def run_file(name: str) -> None:
    """Do what jobs/X.py does: the job of this name with the flags of `sys.argv`."""
    command = find(COMMANDS, name)
    assert command is not None, name
    start(command, f"python {command.file}", sys.argv[1:])


def run_package() -> None:
    """Do what `fastrcnn-ray` and `python -m pipeline` do: the first word names the job."""
    program = PACKAGE if sys.argv[0].endswith(PACKAGE) else "python -m pipeline"
    dispatch(
        COMMANDS,
        program,
        "Fine-tune Fast R-CNN on Ray, score buckets of images, query the Parquet.",
        sys.argv[1:],
    )


def dispatch(
    commands: Sequence[Command], program: str, description: str, words: Sequence[str]
) -> None:
    """Run the command that the first word names, or list them all for --help."""
    first = words[0] if words else ""
    if first in ("-h", "--help", "--help-all"):
        sys.stdout.write(_listing(commands, program, description))
        sys.exit(0)
    if first == "--version":
        sys.stdout.write(f"{PACKAGE} {__version__}\n")
        sys.exit(0)
    command = find(commands, first)
    if command is None:
        names = [command.name for command in commands]
        near = difflib.get_close_matches(first, names, 1)
        given = f"{first!r}: no such command" if first else "no command was given"
        hint = f"Did you mean {near[0]}?" if near else f"Expected one of {', '.join(names)}."
        sys.stderr.write(f"error: {given}. {hint} ({program} --help)\n")
        sys.exit(2)
    start(command, f"{program} {command.name}", words[1:])


def find(commands: Sequence[Command], name: str) -> Command | None:
    """The command of this name, or of its file's: score, score_bucket and score-bucket are one."""
    plain = name.replace("-", "_")
    for command in commands:
        if plain in (command.name.replace("-", "_"), PurePath(command.file).stem):
            return command
    return None


def start(command: Command, program: str, arguments: Sequence[str]) -> None:
    """Parse the flags, import the job's work, run it."""
    description = f"{command.summary}\n\n{command.description.strip()}"
    if command.on_ray:
        options = "--working-dir . " if program.startswith("python jobs/") else ""
        description += f"\n\nOn a Ray cluster:\n\n  ray job submit {options}-- {program} ..."
    cli.main(
        load(command.config),
        lambda config: load(command.run)(config),
        description,
        command=program,
        arguments=arguments,
    )


def load(path: str) -> Any:
    """What MODULE:NAME names."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def _listing(commands: Sequence[Command], program: str, description: str) -> str:
    columns = min(shutil.get_terminal_size().columns, WIDEST)
    width = max(len(command.name) for command in commands) + 4
    lines = [f"usage: {program} COMMAND [flags]", ""]
    for paragraph in description.strip().split("\n\n"):
        lines += [*textwrap.wrap(paragraph, columns, break_on_hyphens=False), ""]
    for command in commands:
        text = f"  {command.name}".ljust(width) + command.summary
        lines += textwrap.wrap(text, columns, subsequent_indent=" " * width)
    lines += ["", f"{program} COMMAND --help describes one of them; --version shows the version."]
    return "".join(f"{line}\n" for line in lines)
