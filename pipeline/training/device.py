"""Find out what the training workers compute on, before any of them starts."""

from __future__ import annotations

import ray
import torch

from pipeline.config import TrainConfig
from pipeline.runtime import cluster
from pipeline.runtime.growing import Growth
from pipeline.runtime.machine import joins
from pipeline.training.resources import worker_resources
from pipeline.training.situation import Device


def find_device(config: TrainConfig) -> Device:
    """Ask the cluster, or this machine if Ray will start here. A dry run joins no cluster.

    A cluster that starts nodes is asked for those of the training, and waited for.

    Raises:
        UserError: the cluster cannot be joined, or has too few resources.
        JobError: the nodes did not come in time.
    """
    gpus = config.gpus_per_worker
    if gpus is not None:
        return _device(gpus > 0, f"--gpus-per-worker {gpus:g}", min(gpus, 1.0))
    if joins() and not config.dry_run:
        joined = cluster.connect(allow_open=config.allow_open_cluster)
        with Growth(joined=joined, wait_s=config.wait_for_nodes) as growth:
            per_worker = worker_resources(config, growth)
        return _device(per_worker["GPU"] > 0, "what the Ray cluster has")
    if ray.is_initialized():
        return _device(cluster.resources().get("GPU", 0) >= 1, "what the Ray cluster has")
    where = "what this machine has, as a dry run joins no cluster" if joins() else "what is here"
    return _device(torch.cuda.is_available(), where)


def _device(is_gpu: bool, where: str, share: float = 1.0) -> Device:
    memory = None
    if is_gpu and torch.cuda.is_available():
        memory = share * torch.cuda.get_device_properties(0).total_memory
    return Device(kind="gpu" if is_gpu else "cpu", where=where, memory=memory)
