"""Trainings of drawn scenes on a cluster whose processes are killed, for the tests of `pipeline.train`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import ray

from fastrcnn.averaging import WeightAverage, load_weights
from fastrcnn.loss import Objective
from fastrcnn.model import FastRCNN
from fastrcnn.proposals import propose
from fastrcnn.solver import build_optimizer
from pipeline import storage
from pipeline.annotations import LabelledImage
from pipeline.config import TrainConfig
from pipeline.images import decode
from pipeline.proposals.table import Boxes
from pipeline.training.data import read_data
from pipeline.training.examples import Example, load_batch
from pipeline.training.initial_weights import initial_model
from pipeline.training.order import image_order
from pipeline.training.plan import TrainPlan
from pipeline.training.step import StepSettings, train_step

CHECKOUT = Path(__file__).resolve().parents[2]
ITERATIONS = 12


def config(data: str, output: str, **changes: Any) -> TrainConfig:
    small: dict[str, Any] = {
        "preset": "modern",
        "backbone": "tiny",
        "weights": "none",
        "proposals": "grid",
        "max_proposals": 200,
        "scale": 96,
        "fc_dim": 32,
        "rois_per_image": 32,
        "batch_size": 4,
        "set": ("images_per_pass=2",),  # a pass is as large for one worker as for two
        "iterations": ITERATIONS,
        "validate_every": 2,
    }
    return TrainConfig(data=data, output=output, **(small | changes))


def steps_without_ray(
    flags: TrainConfig, first: int | None = None
) -> tuple[list[dict[str, float]], FastRCNN]:
    """The steps (or the first of them) of a run that nothing happens to, in this process, without Ray."""
    training, _ = read_data(flags)
    plan = TrainPlan.of(flags, training.classes).fitted(training.images)
    examples = [Example(image, _proposals(image, plan)) for image in training.images]
    model = initial_model(plan.model, flags.weights, flags.seed, training.classes)
    objective, optimizer = Objective(model), build_optimizer(model, plan.solver)
    rows = []
    num_iterations = plan.solver.num_iterations(len(examples))
    settings = StepSettings(solver=plan.solver, num_iterations=num_iterations, seed=flags.seed)
    order = image_order(examples, plan.solver.repeat_threshold, flags.seed)
    decay = plan.solver.ema_decay
    average = None if decay is None else WeightAverage(model, decay)
    for step in range(first or num_iterations):
        size = plan.solver.batch_size
        batch = load_batch(examples, step, size, flags.seed, plan.model, order=order)
        rows.append(train_step(objective, optimizer, batch, step, settings))
        if average is not None:
            average.update(model, step)
    if average is not None:
        load_weights(model, average.weights)
    return rows, model


def _proposals(image: LabelledImage, plan: TrainPlan) -> Boxes:
    if plan.model.rpn is not None:
        return np.zeros((0, 4), np.float32)
    return propose(decode(storage.read_bytes(image.image_uri)).pixels, plan.proposals)


DRIVER = """
import sys, ray
from pipeline import train
from pipeline.config import TrainConfig
from pipeline.config.overrides import ModelOverrides, RPNOverrides, SolverOverrides
from pipeline.training import fit
sys.stdin.readline()
fit.RESIZE_EVERY_S = 1.0
ray.init(address=sys.argv[1], log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": sys.argv[2]}})
train.run(eval(sys.argv[3]))
"""


@contextmanager
def driver(flags: TrainConfig) -> Iterator[subprocess.Popen[bytes]]:
    """A process that trains on the session's cluster as soon as its stdin is closed."""
    address = ray.get_runtime_context().gcs_address
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, address, str(CHECKOUT), repr(flags)],
        cwd=CHECKOUT,
        env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
        stdin=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def begin(process: subprocess.Popen[bytes]) -> None:
    """Let it train: it has loaded meanwhile."""
    assert process.stdin
    process.stdin.close()


@contextmanager
def second_node(address: str) -> Iterator[None]:
    """Two CPUs more: with two CPUs a worker, each worker has a separate node."""
    command = "start --block --num-cpus 2 --num-gpus 0 --object-store-memory 100000000 --address"
    ray_command = Path(sys.executable).with_name("ray")
    node = None
    try:
        while sum(n["Alive"] for n in ray.nodes()) < 2:
            if (
                node is None or node.poll() is not None
            ):  # Ray gives it 30 s; on a busy machine again
                node = subprocess.Popen(
                    [ray_command, *command.split(), address],
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            time.sleep(0.1)
        yield
    finally:
        if node and node.poll() is None:
            node.terminate()  # Ray takes it off its list at once; of a node that dies it hears later
            node.wait()


def latest_checkpoint(output: str) -> str:
    """What Ray has noted; "" where there is none yet."""
    uri = f"{output}/train/checkpoint_manager_snapshot.json"
    if not storage.exists(uri):
        return ""
    snapshot = json.loads(storage.read_bytes(uri))
    name: str = snapshot["latest_checkpoint_result"]["checkpoint_dir_name"]
    return name


def wait_for_checkpoint(output: str, driver: subprocess.Popen[bytes], *, after: str) -> None:
    while latest_checkpoint(output) <= after:
        assert driver.poll() is None, f"the driver ended by itself, with {driver.returncode}"
        time.sleep(0.1)


def train_workers(address: str) -> list[int]:
    """Processes of this cluster that train."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):
            parent = (entry / "stat").read_text().rsplit(")", 1)[1].split()[1]
            raylet = Path("/proc", parent, "cmdline").read_text()
            if (entry / "cmdline").read_text().startswith("ray::RayTrainWorker"):
                if address in raylet:
                    found.append(int(entry.name))
    return sorted(found)


def curves(output: str) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(storage.read_bytes(storage.join(output, "metrics.json")))
    return parsed
