"""Joining the Ray cluster, in every form in which a job may be started.

- ``ray job submit --working-dir . -- python jobs/X.py``: the job carries a working_dir, Ray puts it on
  the path of driver and workers. Giving another one to `ray.init` would be refused as a conflict.
- ``ray job submit jobs/X.py`` on a cluster started in the checkout: the job has no working_dir, so the
  workers would not find `pipeline` and `fastrcnn`; we give them the checkout.
- ``python jobs/X.py``: no cluster at all; Ray starts here, its workers inherit our path.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import ray
from ray.data import DataContext

logger = logging.getLogger(__name__)

NO_PROGRESS_TIMEOUT_S = 900.0
"""Ray Data's own is 30 minutes. The longest honest silence is a Detector that downloads its weights and
takes its first batch on one CPU: minutes."""

CHECKOUT = Path(__file__).resolve().parent.parent


def connect() -> None:
    """Join the cluster of this job, or start one on this machine. Does nothing where already joined."""
    if ray.is_initialized():
        return
    # Ray 2.60 otherwise writes ~/.ray/auth_token, whose presence turns later clusters to token mode.
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    ray.init(runtime_env=_runtime_env(), log_to_driver=True, logging_level=logging.WARNING)
    here = resources()
    logger.info("Ray cluster: %g CPUs, %g GPUs", here.get("CPU", 0), here.get("GPU", 0))


def resources() -> dict[str, float]:
    """What the cluster has in all, busy or not: "CPU", and "GPU" where there are any."""
    return dict(ray.cluster_resources())  # type: ignore[no-untyped-call]


def configure_ray_data() -> None:
    """Bound what could hang or loop; and say no more in a job's log than what goes wrong."""
    context = DataContext.get_current()
    context.execution_no_progress_timeout_s = NO_PROGRESS_TIMEOUT_S
    context.max_consecutive_actor_init_deaths = 3
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    # It warns of the bars that we turned off.
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)


def _runtime_env() -> dict[str, Any]:
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    if job.get("runtime_env", {}).get("working_dir"):
        return {}
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ or "RAY_ADDRESS" in os.environ:
        return {"working_dir": str(CHECKOUT)}
    # A cluster of our own: the workers are processes of this machine, so the path is enough.
    path = os.pathsep.join(p for p in (str(CHECKOUT), os.environ.get("PYTHONPATH", "")) if p)
    return {"env_vars": {"PYTHONPATH": path}}
