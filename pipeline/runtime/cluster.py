"""Joins the Ray cluster of a job, or starts one.

A job can be started in four ways:

- ``ray job submit --working-dir . -- python jobs/X.py``: the job has a working_dir, and Ray adds it to the
  path of the driver and the workers. `ray.init` refuses another working_dir as a conflict.
- ``ray job submit jobs/X.py`` on a cluster that was started in the checkout: the job has no working_dir, so
  `connect` sends the checkout. Without it, the workers would not find `pipeline` and `fastrcnn`.
- ``python jobs/X.py``: there is no cluster. Ray starts on this machine, and its workers inherit the path of
  this process.
- ``fastrcnn-ray X``, or Python that imports the installed package: there is no checkout to send. So every
  node must have the package installed, in the same version. `connect` checks this.

Anyone who can reach a Ray cluster can run code on it, with the credentials of its workers, and Ray listens on
every network interface, even if it is given one address. So a cluster with nodes on other machines, or with
an address on the internet, is joined only if it requires a token (RAY_AUTH_MODE=token) or the command has
--allow-open-cluster. A cluster on this machine alone, in a private network (a laptop's ``ray start --head``),
is joined with a warning. A cluster that the job starts itself requires a token that only this job knows.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import os
import secrets
import socket
import urllib.error
import urllib.request
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import ray
import ray.util
from ray.data import DataContext
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fastrcnn import __version__
from pipeline.errors import JobError, UserError
from pipeline.runtime.machine import joins

logger = logging.getLogger(__name__)

NO_PROGRESS_TIMEOUT_S = 900.0
"""Ray Data fails after this time without progress. Its default is 30 minutes. A job that works pauses for
minutes at most, when a Detector downloads its weights and scores its first batch on one CPU."""

BLOCK_BYTES = 16 * 2**20
"""Size of the blocks of encoded images between the stages. Ray's default, 128 MB, holds a hundred batches:
the first batch would wait for the last one, and all of them would be in memory."""

STARTS_TOO_SLOWLY = "timed out during startup"
"""Text in the `Exception` that Ray 2.60 raises when its raylet does not start in time. The raylet gives its
agent 15 s to import what it needs, and the driver gives the raylet 30 s (ray-project/ray issue 65983)."""

CHECKOUT = Path(__file__).resolve().parents[2]
"""The folder that holds `pipeline` and `fastrcnn`: the checkout, or the folder of installed packages."""

EXCLUDED = [".git", ".venv", "venv", "__pycache__"]
"""Folders of the checkout that the nodes do not get. Ray leaves out the same ones, but warns of each."""

VERSIONS_TIMEOUT_S = 120.0
"""Time for all nodes to report their version. A node starts a worker and imports two small packages, which
takes seconds, or a minute on a busy machine."""


def connect(*, allow_open: bool = False) -> bool:
    """Join the cluster of this job, or start one on this machine. Do nothing if Ray is already initialized.

    Args:
        allow_open: --allow-open-cluster: join a cluster that requires no token.

    Returns:
        Whether the cluster was there before, so that it may have, or get, other nodes than this machine.

    Raises:
        UserError: the cluster has nodes on other machines and requires no token, and `allow_open` is not set;
            or the package is installed here, and a node does not have the same version.
        JobError: this machine is so busy that Ray does not start within its time limits.
    """
    if ray.is_initialized():
        return joins()
    if not joins():
        set_random_token()
    os.environ.setdefault("RAY_OVERRIDE_RUNTIME_ENV_DEFAULT_EXCLUDES", "")
    try:
        context = ray.init(
            runtime_env=_runtime_env(), log_to_driver=True, logging_level=logging.WARNING
        )
    except Exception as error:
        if STARTS_TOO_SLOWLY not in str(error):
            raise
        raise JobError(
            "Ray did not start on this machine within its fixed limits of 15 s and 30 s, because the machine "
            "is too busy. Wait until other programs have ended, and run the same command again"
        ) from error
    if joins() and not allow_open:
        known = ray.nodes()  # type: ignore[no-untyped-call]
        addresses = {node["NodeManagerAddress"] for node in known if node["Alive"]}
        check_closed(addresses, asks_for_token(getattr(context, "dashboard_url", None)))
    if not is_checkout():
        # Always checked: without an address, `ray.init` may join a cluster that already runs on this machine.
        check_versions(node_versions(), __version__)
    total = resources()
    logger.info("Ray cluster: %g CPUs, %g GPUs", total.get("CPU", 0), total.get("GPU", 0))
    # Without an address, `ray.init` joins a cluster that already runs on this machine.
    return joins() or len(nodes()) > 1 or not total.get("CPU")


def set_random_token() -> None:
    """Set a random token, so that the Ray that this process starts requires it. Call before `ray.init`."""
    # Without it Ray 2.60 writes a token to ~/.ray/auth_token, and later clusters then require it.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    # Hides the warning that a token is set.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)


def check_closed(addresses: Collection[str], closed: bool) -> None:
    """Refuse a cluster that requires no token, unless it is this machine alone in a private network.

    Args:
        addresses: the addresses of its nodes.
        closed: whether it requires a token.

    Raises:
        UserError: it requires no token, and a node is another machine or has an address on the internet.
    """
    if closed:
        return
    open_to_others = sorted(a for a in addresses if not _is_here(a) or _is_of_the_internet(a))
    if open_to_others:
        raise UserError(
            f"the Ray cluster (a node is {open_to_others[0]})",
            "requires no token, so anyone who can reach it can run code with your credentials",
            "Start every node with RAY_AUTH_MODE=token and the same token"
            " (docs.ray.io/en/latest/ray-security/token-auth.html), or give --allow-open-cluster.",
        )
    if any(not address.startswith("127.") for address in addresses):
        logger.warning(
            "Ray listens on every network interface of this machine and requires no token. Run"
            " `ray get-auth-token --generate` once; every Ray that you start here then requires one"
        )


def _is_of_the_internet(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False  # a host name, which _is_here has resolved


def asks_for_token(dashboard: str | None) -> bool:
    """Return whether a cluster refuses requests without a token.

    The dashboard is asked with a request without a token, because RAY_AUTH_MODE in this process only says
    that this process sends one. If the dashboard does not answer, RAY_AUTH_MODE decides.

    Args:
        dashboard: ``host:port`` or a URL.
    """
    sends_token = os.environ.get("RAY_AUTH_MODE", "").lower() == "token"
    if not dashboard:
        return sends_token
    url = dashboard if "://" in dashboard else f"http://{dashboard}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url.rstrip('/')}/api/jobs/", timeout=10):
            return False
    except urllib.error.HTTPError as error:
        error.close()
        return error.code in (401, 403)
    except (OSError, ValueError):
        return sends_token


def _is_here(address: str) -> bool:
    """Return whether an address belongs to this machine: only such an address can be bound."""
    try:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def resources() -> dict[str, float]:
    """Return all resources of the cluster, busy or not: "CPU", and "GPU" if it has GPUs."""
    return dict(ray.cluster_resources())  # type: ignore[no-untyped-call]


def nodes() -> list[dict[str, float]]:
    """Return the resources of each living node. A head node that takes no work has no "CPU"."""
    known = ray.nodes()  # type: ignore[no-untyped-call]
    return [dict(node["Resources"]) for node in known if node["Alive"]]


def node_ids() -> set[str]:
    """Return the ids of the living nodes."""
    known = ray.nodes()  # type: ignore[no-untyped-call]
    return {node["NodeID"] for node in known if node["Alive"]}


def node_names() -> set[str]:
    """Return the ids and the addresses of the living nodes."""
    known = ray.nodes()  # type: ignore[no-untyped-call]
    return node_ids() | {node["NodeManagerAddress"] for node in known if node["Alive"]}


def this_node() -> str:
    """Return the address of the node that this process runs on."""
    return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]


def working_nodes() -> set[str]:
    """Return the addresses of the living nodes that have CPUs."""
    known = ray.nodes()  # type: ignore[no-untyped-call]
    return {n["NodeManagerAddress"] for n in known if n["Alive"] and n["Resources"].get("CPU")}


def configure_ray_data() -> None:
    """Set limits on hangs and restarts of Ray Data, and let it log only problems."""
    context = DataContext.get_current()
    context.execution_no_progress_timeout_s = NO_PROGRESS_TIMEOUT_S
    context.max_consecutive_actor_init_deaths = 3
    context.target_max_block_size = BLOCK_BYTES
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # Else a JobError of a worker would come as a UserCodeException, with a traceback.
    context.raise_original_map_exception = True
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    # Hides the warning that progress bars are turned off.
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)


def is_checkout() -> bool:
    """Return whether the packages lie in a checkout or a copy of one, beside jobs/."""
    return (CHECKOUT / "jobs" / "score_bucket.py").is_file()


def node_versions(ids: Collection[str] | None = None) -> dict[str, str | None]:
    """Return the version of the package on living nodes, by address; None if it is not installed.

    One task runs on each node, all at the same time. They need no CPU, so they run on a busy cluster too.

    Args:
        ids: the ids of the nodes to ask; None asks every node.

    Raises:
        JobError: a node did not answer in time.
    """

    # Defined inside, so that Ray sends its code: a node without the package could not import it.
    def installed_version() -> str | None:
        try:
            import pipeline
        except ImportError:
            return None
        return str(getattr(pipeline, "__version__", "an older version"))

    known = ray.nodes()  # type: ignore[no-untyped-call]
    addresses = {
        node["NodeID"]: node["NodeManagerAddress"]
        for node in known
        if node["Alive"] and (ids is None or node["NodeID"] in ids)
    }
    ask = ray.remote(num_cpus=0, max_retries=0)(installed_version)
    asked = {
        ask.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)
        ).remote(): at
        for node, at in addresses.items()
    }
    _, waiting = ray.wait(list(asked), num_returns=len(asked), timeout=VERSIONS_TIMEOUT_S)
    if waiting:
        raise JobError(
            f"the node {asked[waiting[0]]} did not report its version of fastrcnn-ray within"
            f" {VERSIONS_TIMEOUT_S:g} s. Run the same command again, or remove the node from the cluster"
        )
    return {at: ray.get(reference) for reference, at in asked.items()}


def check_versions(versions: Mapping[str, str | None], here: str) -> None:
    """Check that every node has the package in the version `here`.

    Raises:
        UserError: a node has another version or none. The message names the first such node.
    """
    for address, version in sorted(versions.items()):
        if version != here:
            raise UserError(
                f"the node {address} of the Ray cluster",
                f"has fastrcnn-ray {version}, but this machine has {here}"
                if version
                else f"has no fastrcnn-ray, but this machine has {here}",
                f"Install fastrcnn-ray {here} in the Python of every node, or start the job from a checkout.",
            )


def _runtime_env() -> dict[str, Any]:
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    if job.get("runtime_env", {}).get("working_dir"):
        return {}
    if joins():
        return {"working_dir": str(CHECKOUT), "excludes": EXCLUDED} if is_checkout() else {}
    # This process starts the cluster: the workers run on this machine, so the path is enough.
    path = os.pathsep.join(p for p in (str(CHECKOUT), os.environ.get("PYTHONPATH", "")) if p)
    return {"env_vars": {"PYTHONPATH": path}}
