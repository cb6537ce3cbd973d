"""The steps of `jobs/demo.py`, in order."""

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
from pipeline import storage

BUCKET = "s3://demo"
DATA, INBOX = f"{BUCKET}/shapes", f"{BUCKET}/inbox"
MODEL, RESULTS = f"{BUCKET}/models/shapes", f"{BUCKET}/results"
# Small enough for two cores, and for images of about 220 pixels.
MODEL_FLAGS = "--backbone tiny --weights none --scale 224 --fc-dim 256 --rois-per-image 64".split()
SOLVER_FLAGS = "--batch-size 2 --learning-rate 0.01".split()
# What Ray itself notes while it works, short of errors; it stays in the logs.
_RAY_NOTES = re.compile(r"\S+ \S+\t(INFO|SUCC|WARNING) \w+\.py:\d+ -- |.* core_worker\.cc:\d+: ")


@dataclass(frozen=True, slots=True)
class Stage:
    """How a step is shown: its title and time, its commands as a person would type them."""

    logs: Path
    started: float

    def step(self, title: str) -> None:
        """Print the title of the next step, after the time since the start."""
        print(f"\n==> [{self.clock()}] {title}", flush=True)

    def clock(self) -> str:
        """Minutes and seconds since the start."""
        return "{}:{:02d}".format(*divmod(round(time.monotonic() - self.started), 60))

    def python(self, job: str, *flags: str) -> None:
        """Run jobs/<job>.py here."""
        command = ["python", f"jobs/{job}.py", *flags]
        processes.run(command, self.logs / f"{job}.log", cwd=CHECKOUT)

    def submit(self, dashboard: str, job: str, *flags: str) -> None:
        """Run jobs/<job>.py on the cluster, and wait for it."""
        command = ["ray", "job", "submit", "--address", dashboard, "--working-dir", ".", "--"]
        command += ["python", f"jobs/{job}.py", *flags]
        log = self.logs / f"{job}.log"
        processes.run(command, log, cwd=CHECKOUT, leave_out=_RAY_NOTES)


def run(config: DemoConfig) -> None:
    """The steps, in order; whatever happens, nothing is left running."""
    processes.end_on_signals()
    processes.adopt_orphans()
    servers.own_environment()
    stage = Stage(logs=_empty(config.output) / "logs", started=time.monotonic())
    try:
        with contextlib.ExitStack() as running:
            dashboard = _start(stage, running, config)
            _train_and_score(stage, dashboard, config)
            _query(stage, config)
            mean_ap = _keep(stage, config)
            if config.stay:
                stage.step(f"Staying until Ctrl-C: {dashboard}")
                with contextlib.suppress(SystemExit):
                    signal.pause()
    except processes.CommandError as error:
        sys.exit(f"demo: {error}")
    finally:
        processes.end_all(processes.descendants(os.getpid()))
    stage.step("Done; the S3 server and the Ray cluster have ended")
    if mean_ap < config.expected_map:
        sys.exit(f"demo: mAP {mean_ap:.3f} is below the expected {config.expected_map}")


def _start(stage: Stage, running: contextlib.ExitStack, config: DemoConfig) -> str:
    """A bucket with the data set in it, and a cluster; returns the dashboard's URL."""
    stage.step("An S3 server on this machine")
    endpoint = running.enter_context(servers.s3_server(stage.logs))
    servers.create_bucket("demo")
    print(f"  bucket demo, AWS_ENDPOINT_URL={endpoint}")

    stage.step(f"Drawing labelled images into {DATA}, and files to score into {INBOX}")
    counts = {"train": config.train, "val": config.val, "test": config.test, "score": config.score}
    flags = [part for name, count in counts.items() for part in (f"--{name}", str(count))]
    stage.python("draw_scenes", "--output", BUCKET, *flags, "--seed", str(config.seed))

    stage.step("A Ray cluster on this machine")
    dashboard = running.enter_context(servers.ray_cluster(stage.logs))
    print(f"  dashboard {dashboard} (it asks for the token: {os.environ['RAY_AUTH_TOKEN']})")
    return dashboard


def _train_and_score(stage: Stage, dashboard: str, config: DemoConfig) -> None:
    stage.step(f"Training a detector from nothing, {config.iterations} steps")
    validations = ("--validate-every", str(-(-config.iterations // 3)))
    length = ("--iterations", str(config.iterations), *validations)
    flags = (*MODEL_FLAGS, *SOLVER_FLAGS, *length)
    stage.submit(dashboard, "train", "--data", DATA, "--output", MODEL, *flags)

    stage.step(f"Scoring every file in {INBOX}")
    places = ("--images", INBOX, "--checkpoint", MODEL, "--output", RESULTS)
    stage.submit(dashboard, "score_bucket", *places)

    stage.step("How good are the boxes, by the test images' labels?")
    stage.python("evaluate", "--scored", RESULTS, "--data", DATA, "--split", "test")


def _query(stage: Stage, config: DemoConfig) -> None:
    stage.step(f"DuckDB over {RESULTS}/scored/**/*.parquet, in the bucket")
    connection = results.connect()
    for question, query in results.QUERIES.items():
        sql = query.format(scored=f"{RESULTS}/scored/**/*.parquet")
        print(f"\n  {question}\n{sql}\n{results.answer(connection, sql)}", flush=True)


def _keep(stage: Stage, config: DemoConfig) -> float:
    """Copy out of the bucket what stays, and draw pictures; returns the VOC07 mAP."""
    stage.step("Where to look")
    storage.download_folder(RESULTS, config.output / "results")
    drawn = results.draw_results(RESULTS, config.output / "boxes.png")
    metrics = next((config.output / "results" / "evaluation").glob("*/metrics.json"))
    mean_ap = float(json.loads(metrics.read_text())["voc07"]["mean_ap"])
    print(f"  mAP (VOC07, {config.test} test images): {mean_ap:.3f}")
    print(f"  boxes drawn on {drawn} images:  {config.output / 'boxes.png'}")
    print(f"  precision and recall:       {metrics.parent / 'pr_curves.png'}")
    print(f"  the Parquet, to be queried: {config.output / 'results' / 'scored'}")
    print(f"  what every step said:       {stage.logs}")
    return mean_ap


def _empty(output: Path) -> Path:
    """Make the folder; remove from it what an earlier demo wrote, and nothing else."""
    (output / "boxes.png").unlink(missing_ok=True)
    for part in ("logs", "results"):
        shutil.rmtree(output / part, ignore_errors=True)
    (output / "logs").mkdir(parents=True)
    return output
