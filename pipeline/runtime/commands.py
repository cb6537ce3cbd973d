"""Lists the jobs, and starts them for `jobs/X.py`, `python -m pipeline` and `fastrcnn-ray`.

Strings name the modules of a job, so that they are imported only when they are needed: the config when its
flags are read, the rest when the job runs.
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
    """NAME in `fastrcnn-ray NAME`."""
    config: str
    """MODULE:CLASS of the config, whose fields are the flags."""
    run: str
    """MODULE:FUNCTION that takes the config and does the work."""
    summary: str
    """Says in one line what the job does."""
    description: str = ""
    """Further paragraphs for --help."""
    script: str = ""
    """Name of the file in jobs/, without .py, if it differs from `name`."""
    on_ray: bool = True
    """Whether the job can be submitted to a Ray cluster."""

    @property
    def file(self) -> str:
        """The path of the file in jobs/."""
        return f"jobs/{self.script or self.name.replace('-', '_')}.py"


_TRAIN = """
The data set is recognised by its files: VOC, LabelImg, COCO or YOLO. Proposals are computed once across the
cluster and cached. The output holds checkpoints, metrics and curves.

If the same command runs again, it continues where it stopped.
"""
_SCORE = """
Writes one row per image to OUTPUT/scored/<run_id>/*.parquet: its boxes, or a status that says why there are
none. If the same command runs again, it continues, or scores the images that are new or changed. The results
of another checkpoint are written into another <run_id>.

A prefix selects the objects whose names end in an image suffix (in any case) and counts the others. A glob
selects the objects that it matches. A list (.txt, .csv, .parquet of URIs) selects every URI in it. S3
endpoint, region and credentials come from the AWS variables on every worker. A broken image gets a row with
its status; the job does not fail.
"""
_COMPACT = """
Makes OUTPUT/detections/<run_id>.parquet from each scoring run: one row per box, sorted by label and falling
score, so that a query for one class reads only a small part. If an image was scored several times, only its
newest row counts. Readers see the old table until the new one is complete. If the same command runs again,
it adds what was scored since, or does nothing.

Sorting uses this machine's disk (--temp-folder), so the run may be larger than memory. The memory is limited
(--memory-gib).
"""
_REPORT = """
The page is OUTPUT/report/<run_id>.html, or OUTPUT itself if it ends in .html. It shows images by status,
boxes by class, scores, sizes, throughput, failures with examples, pictures with their boxes, and the accuracy
if --data gives labels. It is one file that loads nothing, and it opens from a disk or a bucket.

The pictures are small copies of the images: everybody who can read the page can see them.
"""
_EXPORT = """
coco: a results file for pycocotools; with --ids, it has the ids of an annotation file. fiftyone: a
FiftyOneImageDetectionDataset. labelstudio: tasks with the boxes as predictions, and the labelling
interface. Images that could not be read are left out; images without boxes are not.

iceberg, delta: one row per box in a table of a data lake. Ray Data's writers replace the table in one commit
(needs the extra of the same name). --output is then NAMESPACE.TABLE in pyiceberg's catalogue "default", or
the folder of the Delta table.

FiftyOne needs local paths, and Label Studio needs URLs that a browser can open. --image-root gives the folder
or URL of the images.
"""
_COMPRESS = """
Keeps the largest singular values of fc6 and fc7, without training again (Fast R-CNN, section 3.1: VGG16
takes .22 s per image instead of .32 s and loses .3 points of mAP). The new checkpoint is used like any other.
"""
_ABLATE = """
Runs one trial per training, as many at once as the cluster has room for (Ray Tune), and writes one table with
the paper's numbers. Comparisons: sampling, multi_task, scales, svd, svm, proposals, layers, class_agnostic.
Three more run only if they are named: roi_heads (torchvision's heads on the same proposals), proposers
(opencv, selective_search, grid, rpn; with the recall of their best 300) and faster_rcnn (torchvision's
detector by its recipe, and ours with selective_search, grid and rpn).

If the same command runs again, it continues where it stopped.
"""
_DRAW = """
OUTPUT/shapes is a VOC folder: circles, crosses, rings, squares and triangles on textured backgrounds.
OUTPUT/inbox holds files to score, a tenth of them broken on purpose. Needs no Ray.
"""
_IMPORT = """
Reads a .mat of fast-rcnn or a .pkl of detectron2 or mmdetection, and writes a table that --proposals reads.
Proposals are matched by the names of the images, never by their order. A pickle is read without running its
code. Needs no Ray.
"""
_EXPORT_PROPOSALS = """
The detector must have been trained with --proposals rpn. The jobs train and score read the table with
--proposals, for other detectors. If the same command runs again, it continues.
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
        summary="Measure the boxes of a scoring run against labels: VOC07, VOC10, COCO.",
        description="Writes the average precision of each class, its mean, and precision-recall curves.",
    ),
    Command(
        name="compact",
        config="pipeline.config.results:CompactConfig",
        run="pipeline.compact:run",
        summary="Make one flat table of boxes for each scoring run, sorted for queries.",
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
        summary="Turn the proposals of other programs into a table.",
        description=_IMPORT,
        on_ray=False,
    ),
    Command(
        name="export-proposals",
        config="pipeline.config.tools:ExportProposalsConfig",
        run="pipeline.export_proposals:run",
        summary="Write the proposals of a detector as a table for other detectors.",
        description=_EXPORT_PROPOSALS,
    ),
)


def run_file(name: str) -> None:
    """Run the job of this name with the flags in `sys.argv`. Every jobs/X.py calls this."""
    command = find(COMMANDS, name)
    assert command is not None, name
    start(command, f"python {command.file}", sys.argv[1:])


def run_package() -> None:
    """Run the job that `sys.argv[1]` names. `fastrcnn-ray` and `python -m pipeline` call this."""
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
    """Run the command that the first word names, or list all commands for --help."""
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
    """Find a command by its name or its file's name: score, score_bucket and score-bucket are the same."""
    plain = name.replace("-", "_")
    for command in commands:
        if plain in (command.name.replace("-", "_"), PurePath(command.file).stem):
            return command
    return None


def start(command: Command, program: str, arguments: Sequence[str]) -> None:
    """Parse the flags, import the modules of the job, and run it."""
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
    """Import and return the object that MODULE:NAME names."""
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
