"""Run the steps of `jobs/demo.py` in order."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from demo import processes, results, servers
from demo.config import CHECKOUT, DemoConfig
from demo.next_steps import next_steps
from pipeline import storage

BUCKET = "s3://demo"
DATA, INBOX = f"{BUCKET}/shapes", f"{BUCKET}/inbox"
MODEL, RESULTS = f"{BUCKET}/models/shapes", f"{BUCKET}/results"
# A small model for two cores and images of about 220 pixels.
MODEL_FLAGS = (
    "--preset modern --backbone tiny --weights none --scale 224 --fc-dim 256 --rois-per-image 64"
).split()
# Shapes may lie in any direction, rarely overlap another one of their class, and never share a box.
SOLVER_FLAGS = (
    "--batch-size 2 --solver.optimizer adamw --learning-rate 0.001"
    " --model.vertical-flips True --model.quarter-turns True --model.nms-threshold 0.3"
    " --model.one-class-iou 0.6"
).split()
# Log lines of Ray below the level of errors. They are written to the log files only.
_RAY_NOTES = re.compile(r"\S+ \S+\t(INFO|SUCC|WARNING) \w+\.py:\d+ -- |.* core_worker\.cc:\d+: ")


@dataclass(frozen=True, slots=True)
class Stage:
    """Prints the title of each step, and runs its commands."""

    logs: Path
    started: float

    def step(self, title: str) -> None:
        """Print the title of the next step, and the time since the start."""
        print(f"\n==> [{self.clock()}] {title}", flush=True)

    def clock(self) -> str:
        """Give minutes and seconds since the start."""
        return "{}:{:02d}".format(*divmod(round(time.monotonic() - self.started), 60))

    def python(self, job: str, *flags: str) -> None:
        """Run jobs/<job>.py on this machine."""
        command = ["python", f"jobs/{job}.py", *flags]
        processes.run(command, self.logs / f"{job}.log", cwd=CHECKOUT)

    def submit(self, dashboard: str, job: str, *flags: str) -> None:
        """Submit jobs/<job>.py to the cluster, and wait for it."""
        command = ["ray", "job", "submit", "--address", dashboard, "--working-dir", ".", "--"]
        command += ["python", f"jobs/{job}.py", *flags]
        log = self.logs / f"{job}.log"
        processes.run(command, log, cwd=CHECKOUT, leave_out=_RAY_NOTES)


def run(config: DemoConfig) -> None:
    """Run all steps. At the end, also after an error, no process is left."""
    processes.end_on_signals()
    processes.adopt_orphans()
    servers.use_demo_environment()
    stage = Stage(logs=_empty(config.output) / "logs", started=time.monotonic())
    try:
        with contextlib.ExitStack() as running:
            dashboard = _start(stage, running, config)
            _train_and_score(stage, dashboard, config)
            _query(stage, config)
            mean_ap = _keep(stage, config)
            if config.stay:
                stage.step(f"Running until Ctrl-C: {dashboard}")
                with contextlib.suppress(SystemExit):
                    signal.pause()
    except processes.CommandError as error:
        sys.exit(f"demo: {error}")
    finally:
        processes.end_all(processes.descendants(os.getpid()))
    stage.step("Finished; the S3 server and the Ray cluster are stopped")
    _say_what_next(config.output)
    if mean_ap < config.expected_map:
        sys.exit(f"demo: mAP {mean_ap:.3f} is below the expected {config.expected_map}")


def _start(stage: Stage, running: contextlib.ExitStack, config: DemoConfig) -> str:
    """Start the S3 server, draw the data set into a bucket, and start the cluster; give the URL of its
    dashboard."""
    stage.step("Starting an S3 server on this machine")
    endpoint = running.enter_context(servers.s3_server(stage.logs))
    servers.create_bucket("demo")
    print(f"  bucket demo, AWS_ENDPOINT_URL={endpoint}")

    stage.step(f"Drawing labelled images into {DATA}, and files to score into {INBOX}")
    counts = {"train": config.train, "val": config.val, "test": config.test, "score": config.score}
    flags = [part for name, count in counts.items() for part in (f"--{name}", str(count))]
    stage.python("draw_scenes", "--output", BUCKET, *flags, "--seed", str(config.seed))

    stage.step("Starting a Ray cluster on this machine")
    dashboard = running.enter_context(servers.ray_cluster(stage.logs))
    print(f"  dashboard {dashboard} (its token: {os.environ['RAY_AUTH_TOKEN']})")
    return dashboard


def _train_and_score(stage: Stage, dashboard: str, config: DemoConfig) -> None:
    stage.step(f"Training a detector from random weights, {config.iterations} steps")
    validations = ("--validate-every", str(-(-config.iterations // 2)))
    length = ("--iterations", str(config.iterations), *validations)
    flags = (*MODEL_FLAGS, *SOLVER_FLAGS, *length)
    stage.submit(dashboard, "train", "--data", DATA, "--output", MODEL, *flags)

    stage.step(f"Scoring every file in {INBOX}")
    places = ("--images", INBOX, "--checkpoint", MODEL, "--output", RESULTS)
    stage.submit(dashboard, "score_bucket", *places)

    stage.step("Evaluating the boxes on the labelled test images")
    stage.python("evaluate", "--scored", RESULTS, "--data", DATA, "--split", "test")


def _query(stage: Stage, config: DemoConfig) -> None:
    stage.step(f"Querying {RESULTS}/scored/**/*.parquet with DuckDB")
    connection = results.connect()
    for question, query in results.QUERIES.items():
        sql = query.format(scored=f"{RESULTS}/scored/**/*.parquet")
        print(f"\n  {question}\n{sql}\n{results.answer(connection, sql)}", flush=True)


def _keep(stage: Stage, config: DemoConfig) -> float:
    """Copy model, inbox and results out of the bucket, and make report and picture; give the VOC07 mAP."""
    stage.step("Making the report, and copying model, inbox and results out of the bucket")
    output = config.output
    page = ("--output", str(output / "report.html"))
    stage.python("report", "--scored", RESULTS, "--data", DATA, "--split", "test", *page)
    for source, folder in (
        (f"{MODEL}/checkpoint", "model"),
        (INBOX, "inbox"),
        (RESULTS, "results"),
    ):
        storage.download_folder(source, output / folder)
    drawn = results.draw_results(RESULTS, output / "boxes.jpg")
    metrics = next((output / "results" / "evaluation").glob("*/metrics.json"))
    mean_ap = float(json.loads(metrics.read_text())["voc07"]["mean_ap"])
    print(f"  mAP (VOC07, {config.test} test images): {mean_ap:.3f}")
    print(f"  report, open it in a browser: {output / 'report.html'}")
    print(f"  boxes drawn on {drawn} images:     {output / 'boxes.jpg'}")
    print(f"  trained detector:             {output / 'model'}")
    print(f"  scored images:                {output / 'inbox'}")
    print(f"  boxes as Parquet:             {output / 'results'}")
    print(f"  logs of every step:           {stage.logs}")
    return mean_ap


def _say_what_next(output: Path) -> None:
    """Print commands to go on with."""
    shown = output.relative_to(Path.cwd()) if output.is_relative_to(Path.cwd()) else output
    print("\nNow try, after `source .venv/bin/activate`:", flush=True)
    for title, command in next_steps(shown).items():
        print(f"\n  {title}:\n    {command}", flush=True)
    print("\nTrain on your own labels: docs/tutorial.md")


def _empty(output: Path) -> Path:
    """Create the folder, and remove the files of an earlier demo from it, and no others."""
    for name in ("boxes.jpg", "report.html"):
        (output / name).unlink(missing_ok=True)
    for part in ("logs", "results", "model", "inbox", "again"):
        shutil.rmtree(output / part, ignore_errors=True)
    (output / "logs").mkdir(parents=True)
    return output
