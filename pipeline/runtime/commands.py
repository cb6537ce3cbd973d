"""The table of jobs: name, flags, function and help text. `jobs/X.py`, `python -m pipeline` and
`fastrcnn-ray` use it.

Modules are named by strings, so that they are imported late: the config when the flags are read, the function
when the job runs.
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

from pipeline.runtime import cli
from pipeline.runtime.help import WIDEST

PACKAGE = "fastrcnn-ray"


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """One job."""

    name: str
    """NAME in `fastrcnn-ray NAME`."""
    config: str
    """MODULE:CLASS of the flags."""
    run: str
    """MODULE:FUNCTION that takes the config."""
    summary: str
    """One line that says what the job does."""
    description: str = ""
    """More paragraphs for --help."""
    script: str = ""
    """File name in jobs/ without .py, if it is not the name of the job."""
    on_ray: bool = True
    """True if the job can be submitted to a Ray cluster."""
    guarded: bool = True
    """True if a signal ends the job as `pipeline.runtime.ending` says; False if it handles signals."""

    @property
    def file(self) -> str:
        return f"jobs/{self.script or self.name.replace('-', '_')}.py"


_TRAIN = """
The data is a folder, a bucket or archives; the format of the labels is recognised (docs/labels.md). Given
proposals are computed once, in parallel on the cluster, and cached. The output holds checkpoints, metrics
and curves.

If the job stops, run the same command again: it continues from the last checkpoint.
"""
_SCORE = """
Writes one row per image to OUTPUT/scored/<run_id>/*.parquet: the boxes, or a status that says why the image
was not scored. A broken image does not stop the job. Run the same command again to continue, or to score
new and changed images. Results of another checkpoint get another run_id.

--images can be a prefix (all objects with an image suffix, in upper or lower case; others are counted), a
glob (all objects that match), archives, or a list of URIs (docs/lists.md). S3 endpoint, region and
credentials come from the AWS variables on every worker.
"""
_COMPACT = """
Writes OUTPUT/detections/<run_id>.parquet for each scoring run: one row per box, sorted by label and falling
score. A query for one class then reads only a small part of the file. If an image was scored several times,
only its newest row is used. Readers see the old table until the new one is complete. Run again, the job adds
new results, or does nothing if there are none.

Sorting uses the local disk (--temp-folder). Memory is limited by --memory-gib, for a run of any size.
"""
_REPORT = """
The page is OUTPUT/report/<run_id>.html, or OUTPUT itself if it ends in .html. It shows images by status,
boxes by class, scores, sizes, throughput, failures by kind, and pictures with boxes. With --data it also
shows accuracy, and what is right, wrong and missed. With --compare it also shows where another run differs.
The page is one file that loads nothing else; open it from a disk or a bucket.

The pictures are small copies of the images. Everyone who can read the page sees them.
"""
_EXPORT = """
coco: a results file for pycocotools; with --ids it uses the ids of an annotation file. fiftyone: a
FiftyOneImageDetectionDataset. labelstudio: tasks with the boxes as predictions, and the labelling
interface. Images that could not be read are left out. Images without boxes are included.

iceberg, delta: a table of a data lake with one row per box, replaced in one commit by Ray Data's writers.
This needs the extra of the same name. --output is then NAMESPACE.TABLE in pyiceberg's catalogue "default",
or the folder of the Delta table.

FiftyOne needs local paths, and Label Studio needs URLs that a browser can open. Give them by --image-root.
"""
_SAMPLE = """
Draws images with replacement, with a probability in proportion to what the detector expects in them, and
writes OUTPUT/sample.parquet and blind labelling tasks for Label Studio, CVAT and YOLO. Images in which it saw
nothing are drawn too, more seldom. Count every object in the drawn images, without the boxes of the detector;
the job estimate then gives totals with intervals. The job does not use Ray.
"""
_ESTIMATE = """
Reads what a person counted in the drawn images, and writes totals by class and prefix with 95% intervals to
OUTPUT: estimates.parquet, estimates.json, estimates.html. The totals do not rest on the detector; a better
detector makes narrower intervals. Every drawn image needs a count. The job does not use Ray.
"""
_PACK = """
Writes OUTPUT/tars/*.tar. The names in a tar are the paths below --images. The plan in OUTPUT/plans/ fixes
which image lies in which tar, so the tars are the same for every run: if the job stops, run the same command
again. New and changed images get new tars. Then score the tars: --images 'OUTPUT/tars/*.tar'.

A tar that is compressed as a whole (.tar.gz, .tar.zst) is unpacked on the local disk, and all of its files
are packed, labels too. The job does not use Ray.
"""
_SUSPECTS = """
Compares labels with detections of models that were not trained on their images, and ranks what is probably
wrong: missing labels, bad boxes, wrong classes. Train with --folds 2 --fold 1 and --fold 2, score
splits/fold.txt of each training with its checkpoint, and give both outputs as --scored. OUTPUT/suspects.html
shows a crop of each suspect to judge; with the saved file as --judged, the job writes corrected labels. The
job does not use Ray.
"""
_COMPRESS = """
Keeps the largest singular values of fc6 and fc7. No new training is needed. In the Fast R-CNN paper
(section 3.1), VGG16 then needs .22 s per image instead of .32 s and loses .3 points of mAP. Use the new
checkpoint like any other.
"""
_IMPORT_WEIGHTS = """
The checkpoint finds the boxes, labels and scores that torchvision finds: give it to the job score. It needs
no training. Known are fasterrcnn_resnet50_fpn, fasterrcnn_resnet50_fpn_v2,
fasterrcnn_mobilenet_v3_large_fpn and fasterrcnn_mobilenet_v3_large_320_fpn, and Mask and Keypoint R-CNN
without their masks and keypoints. A file is read without running code from it. To train such a detector on
other classes, give its weights to the job train. The job does not use Ray.
"""
_CALIBRATE = """
Fits two numbers for each class on labelled images that the training did not see. Afterwards, half of the
boxes with a score of .5 are right. The order of the boxes of a class stays, and so does its average
precision. The copy also gets the score of each class with the highest F1 (operating points). Trainings do all
this by themselves; this job is for older checkpoints, and for images of another kind.
"""
_ABLATE = """
Runs each training as one Ray Tune trial, in parallel, and writes one table with the numbers of the paper.

Comparisons: sampling, multi_task, scales, svd, svm, proposals, layers, class_agnostic. Three more run only if
--comparisons names them: roi_heads (torchvision's RoI heads on the same proposals), proposers (opencv,
selective_search, grid and rpn, with the recall of their best 300 proposals) and faster_rcnn (torchvision's
Faster R-CNN by its recipe, and this model with selective_search, grid and rpn).

If the job stops, run the same command again: it continues.
"""
_DRAW = """
OUTPUT/shapes is a VOC folder: circles, crosses, rings, squares and triangles on textured backgrounds.
OUTPUT/inbox holds files to score; a tenth of them is broken on purpose. The job does not use Ray.
"""
_IMPORT = """
Reads .mat files of fast-rcnn and .pkl files of detectron2 and mmdetection, and writes a table for
--proposals. Proposals are matched by image name, never by order. A pickle is read without running code from
it. The job does not use Ray.
"""
_EXPORT_PROPOSALS = """
The detector must be trained with --proposals rpn. Give the table as --proposals to the jobs train and score,
for other detectors. If the job stops, run the same command again: it continues.
"""

COMMANDS = (
    Command(
        name="train",
        config="pipeline.config:TrainConfig",
        run="pipeline.train:run",
        summary="Fine-tune Fast R-CNN on labelled images, with Ray Train workers in parallel.",
        description=_TRAIN,
    ),
    Command(
        name="score",
        config="pipeline.config:ScoreConfig",
        run="pipeline.score:run",
        summary="Detect objects in every image of a bucket, with Ray Data actors.",
        description=_SCORE,
        script="score_bucket",
    ),
    Command(
        name="evaluate",
        config="pipeline.config:EvaluateConfig",
        run="pipeline.evaluate:run",
        summary="Measure the accuracy of a scoring run on labelled images: VOC07, VOC10, COCO.",
        description="Writes the mean average precision, the AP of each class, and precision-recall curves.",
    ),
    Command(
        name="compact",
        config="pipeline.config.results:CompactConfig",
        run="pipeline.compact:run",
        summary="Write the boxes of each scoring run as one flat table, sorted for queries.",
        description=_COMPACT,
    ),
    Command(
        name="report",
        config="pipeline.config.results:ReportConfig",
        run="pipeline.report:run",
        summary="Write one HTML page about a scoring run.",
        description=_REPORT,
    ),
    Command(
        name="export",
        config="pipeline.config.results:ExportConfig",
        run="pipeline.export:run",
        summary="Write the boxes of a scoring run in the format of another tool.",
        description=_EXPORT,
    ),
    Command(
        name="sample",
        config="pipeline.config.counting:SampleConfig",
        run="pipeline.sample:run",
        summary="Draw the images to count by hand, for totals with intervals.",
        description=_SAMPLE,
        on_ray=False,
    ),
    Command(
        name="estimate",
        config="pipeline.config.counting:EstimateConfig",
        run="pipeline.estimate:run",
        summary="Turn counts of drawn images into totals with 95% intervals.",
        description=_ESTIMATE,
        on_ray=False,
    ),
    Command(
        name="suspects",
        config="pipeline.config.suspects:SuspectsConfig",
        run="pipeline.suspects:run",
        summary="Find labels that are probably wrong, and show them for quick judging.",
        description=_SUSPECTS,
        on_ray=False,
    ),
    Command(
        name="compress",
        config="pipeline.config.tools:CompressConfig",
        run="pipeline.compress:run",
        summary="Make a smaller, faster detector by truncating fc6 and fc7.",
        description=_COMPRESS,
    ),
    Command(
        name="pack",
        config="pipeline.config.pack:PackConfig",
        run="pipeline.pack:run",
        summary="Pack a bucket of small images into tars, which are read with few requests.",
        description=_PACK,
        on_ray=False,
    ),
    Command(
        name="import-weights",
        config="pipeline.config.tools:ImportWeightsConfig",
        run="pipeline.import_weights:run",
        summary="Make a checkpoint of a Faster R-CNN of torchvision, such as its COCO detectors.",
        description=_IMPORT_WEIGHTS,
        on_ray=False,
    ),
    Command(
        name="calibrate",
        config="pipeline.config.tools:CalibrateConfig",
        run="pipeline.calibrate:run",
        summary="Copy a checkpoint with scores that mean something: .5 is one in two.",
        description=_CALIBRATE,
    ),
    Command(
        name="ablate",
        config="pipeline.ablation.config:AblateConfig",
        run="pipeline.ablate:run",
        summary="Repeat the comparisons of the Fast R-CNN paper on your labelled images.",
        description=_ABLATE,
    ),
    Command(
        name="draw-scenes",
        config="pipeline.config.tools:DrawConfig",
        run="pipeline.draw_scenes:run",
        summary="Draw a small labelled data set and files to score.",
        description=_DRAW,
        on_ray=False,
    ),
    Command(
        name="import-proposals",
        config="pipeline.config.tools:ImportConfig",
        run="pipeline.import_proposals:run",
        summary="Convert proposals of other programs into a proposals table.",
        description=_IMPORT,
        on_ray=False,
    ),
    Command(
        name="export-proposals",
        config="pipeline.config.tools:ExportProposalsConfig",
        run="pipeline.export_proposals:run",
        summary="Write the proposals of a trained RPN as a table for other detectors.",
        description=_EXPORT_PROPOSALS,
    ),
)


def run_file(name: str) -> None:
    """Run the job of this name with the flags of `sys.argv`. Every jobs/X.py calls this."""
    command = find(COMMANDS, name)
    assert command is not None, name
    start(command, f"python {command.file}", sys.argv[1:])


def run_package() -> None:
    """Run the job that the first word names. `fastrcnn-ray` and `python -m pipeline` call this."""
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
    """Run the command that the first word names; for --help, list all commands."""
    first = words[0] if words else ""
    if first in ("-h", "--help", "--help-all", "help"):
        cli.show(_listing(commands, program, description))
    if first == "--version":
        cli.show(cli.VERSION)
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
    """Give the command of this name or file name, or None: score, score_bucket and score-bucket are the
    same."""
    plain = name.replace("-", "_")
    for command in commands:
        if plain in (command.name.replace("-", "_"), PurePath(command.file).stem):
            return command
    return None


def start(command: Command, program: str, arguments: Sequence[str]) -> None:
    """Parse the flags, import the function of the job, and run it."""
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
        guarded=command.guarded,
    )


def load(path: str) -> Any:
    """Import the object that MODULE:NAME names."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def _listing(commands: Sequence[Command], program: str, description: str) -> str:
    """Write the help that lists all commands."""
    columns = min(shutil.get_terminal_size().columns, WIDEST)
    width = max(len(command.name) for command in commands) + 4
    lines = [f"usage: {program} COMMAND [flags]", ""]
    for paragraph in description.strip().split("\n\n"):
        lines += [*textwrap.wrap(paragraph, columns, break_on_hyphens=False), ""]
    for command in commands:
        text = f"  {command.name}".ljust(width) + command.summary
        lines += textwrap.wrap(text, columns, subsequent_indent=" " * width)
    last = f"{program} COMMAND --help describes one command; --version shows the version."
    lines += ["", *textwrap.wrap(last, columns, break_on_hyphens=False)]
    return "".join(f"{line}\n" for line in lines)
