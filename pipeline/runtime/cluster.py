"""Joining the Ray cluster, in every form in which a job may be started.

- ``ray job submit --working-dir . -- python jobs/X.py``: the job carries a working_dir, Ray puts it on
  the path of driver and workers. Giving another one to `ray.init` would be refused as a conflict.
- ``ray job submit jobs/X.py`` on a cluster started in the checkout: the job has no working_dir, so the
  workers would not find `pipeline` and `fastrcnn`; we give them the checkout.
- ``python jobs/X.py``: no cluster at all; Ray starts here, its workers inherit our path.
- ``fastrcnn-ray X``, or Python that imports an installed package: there is no checkout to send, so every node
  must have the package installed, in the same version. That is checked when the cluster is joined.

Who reaches a Ray cluster runs code on it, with the credentials of its workers, and Ray listens on every
interface whatever address it is given. So one that the internet or other machines are part of is joined only
if it asks for a token (RAY_AUTH_MODE=token), or if the command says that it may not. One of this machine
alone, in a network of its own (a laptop's ``ray start --head``), is joined with a warning; one that a job
starts itself has a token that nobody else knows.
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
from ray.data import DataContext
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fastrcnn import __version__
from pipeline.errors import JobError, UserError

logger = logging.getLogger(__name__)

NO_PROGRESS_TIMEOUT_S = 900.0
"""Ray Data's own is 30 minutes. The longest honest silence is a Detector that downloads its weights and
takes its first batch on one CPU: minutes."""

BLOCK_BYTES = 16 * 2**20
"""Of encoded images between the stages. Ray's own, 128 MB, is a hundred batches: the first would wait for the
last, and memory for all of them."""

STARTS_TOO_SLOWLY = "timed out during startup"
"""In what Ray 2.60 raises, an `Exception`, when its raylet gave up: it grants its agent 15 s to import
what it needs, and the driver grants the raylet 30 (ray-project/ray issue 65983)."""

CHECKOUT = Path(__file__).resolve().parents[2]
"""What holds `pipeline` and `fastrcnn`: the checkout, or the folder of installed packages."""

VERSIONS_TIMEOUT_S = 120.0
"""A node starts a worker and imports two small packages: seconds, or a minute where much else runs."""


def connect(*, allow_open: bool = False) -> None:
    """Join the cluster of this job, or start one on this machine. Does nothing where already joined.

    Args:
        allow_open: --allow-open-cluster.

    Raises:
        UserError: the cluster has nodes on other machines, asks nobody for a token, and that is not allowed;
            or the package is installed here, and a node does not have it in the same version.
        JobError: this machine is too busy for a cluster to start in the time that Ray gives it.
    """
    if ray.is_initialized():
        return
    if not _joins():
        ask_for_own_token()
    try:
        context = ray.init(
            runtime_env=_runtime_env(), log_to_driver=True, logging_level=logging.WARNING
        )
    except Exception as error:
        if STARTS_TOO_SLOWLY not in str(error):
            raise
        raise JobError(
            "Ray did not start on this machine: its processes were not up within the 15 s and 30 s that are "
            "fixed in it. Too much else runs here; let it end, and run the same command again"
        ) from error
    if _joins() and not allow_open:
        nodes = ray.nodes()  # type: ignore[no-untyped-call]
        addresses = {node["NodeManagerAddress"] for node in nodes if node["Alive"]}
        check_closed(addresses, asks_for_token(getattr(context, "dashboard_url", None)))
    if not is_checkout():
        # Also of a Ray that starts here: `ray.init` joins one that runs on this machine without being told.
        check_versions(node_versions(), __version__)
    here = resources()
    logger.info("Ray cluster: %g CPUs, %g GPUs", here.get("CPU", 0), here.get("GPU", 0))


def ask_for_own_token() -> None:
    """Before Ray starts on this machine: it shall ask for a token that nobody else knows."""
    # Ray 2.60 would write one to ~/.ray/auth_token, whose presence turns later clusters to token mode.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    # It warns that there is one.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)


def check_closed(addresses: Collection[str], closed: bool) -> None:
    """Refuse a cluster that asks for no token and is more than this machine in a network of its own.

    Args:
        addresses: of its nodes.
        closed: whether it asks for a token.

    Raises:
        UserError: a node is another machine, or has an address of the internet; without a token.
    """
    if closed:
        return
    open_to_others = sorted(a for a in addresses if not _is_here(a) or _is_of_the_internet(a))
    if open_to_others:
        raise UserError(
            f"the Ray cluster (a node is {open_to_others[0]})",
            "asks for no token, so whoever reaches it runs code with your credentials",
            "Start every node with RAY_AUTH_MODE=token and one token"
            " (docs.ray.io/en/latest/ray-security/token-auth.html), or give --allow-open-cluster.",
        )
    if any(not address.startswith("127.") for address in addresses):
        logger.warning(
            "Ray listens on every interface of this machine and asks for no token. Once"
            " `ray get-auth-token --generate`, and every Ray that you start here asks for one"
        )


def _is_of_the_internet(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False  # a name, which _is_here has resolved


def asks_for_token(dashboard: str | None) -> bool:
    """Whether a cluster refuses who brings no token: its dashboard is asked, for our own word that we would
    bring one says nothing of it. Where it cannot be asked our word is taken.

    Args:
        dashboard: ``host:port`` or a URL.
    """
    word = os.environ.get("RAY_AUTH_MODE", "").lower() == "token"
    if not dashboard:
        return word
    url = dashboard if "://" in dashboard else f"http://{dashboard}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url.rstrip('/')}/api/jobs/", timeout=10):
            return False
    except urllib.error.HTTPError as error:
        error.close()
        return error.code in (401, 403)
    except (OSError, ValueError):
        return word


def _is_here(address: str) -> bool:
    """Whether an address is one of this machine's: only those can be bound."""
    try:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def resources() -> dict[str, float]:
    """What the cluster has in all, busy or not: "CPU", and "GPU" where there are any."""
    return dict(ray.cluster_resources())  # type: ignore[no-untyped-call]


def node_cpus() -> list[float]:
    """CPUs of each node that is there; 0 of a head that is given no work."""
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    return [node["Resources"].get("CPU", 0.0) for node in nodes if node["Alive"]]


def configure_ray_data() -> None:
    """Bound what could hang or loop; and say no more in a job's log than what goes wrong."""
    context = DataContext.get_current()
    context.execution_no_progress_timeout_s = NO_PROGRESS_TIMEOUT_S
    context.max_consecutive_actor_init_deaths = 3
    context.target_max_block_size = BLOCK_BYTES
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    # It warns of the bars that we turned off.
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)


def is_checkout() -> bool:
    """Whether the packages lie in a checkout or a copy of one, beside jobs/; else they are installed."""
    return (CHECKOUT / "jobs" / "score_bucket.py").is_file()


def node_versions() -> dict[str, str | None]:
    """The package's version on every living node, by its address; None where it is not installed.

    One task a node, all at the same time. They take no CPU, so a busy cluster runs them too.

    Raises:
        JobError: a node did not answer in time.
    """

    # Within the function, so that it travels as code: a node without the package could not import it.
    def installed_version() -> str | None:
        try:
            import pipeline
        except ImportError:
            return None
        return str(getattr(pipeline, "__version__", "an older version"))

    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    addresses = {node["NodeID"]: node["NodeManagerAddress"] for node in nodes if node["Alive"]}
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
            f"the node {asked[waiting[0]]} did not say within {VERSIONS_TIMEOUT_S:g} s which version of"
            " fastrcnn-ray it has. Run the same command again, or take the node out of the cluster"
        )
    return {at: ray.get(reference) for reference, at in asked.items()}


def check_versions(versions: Mapping[str, str | None], here: str) -> None:
    """Refuse nodes that lack the package, or have another version of it.

    Raises:
        UserError: naming the first of them.
    """
    for address, version in sorted(versions.items()):
        if version != here:
            raise UserError(
                f"the node {address} of the Ray cluster",
                f"has fastrcnn-ray {version}, this machine has {here}"
                if version
                else f"has no fastrcnn-ray, this machine has {here}",
                f"Install fastrcnn-ray {here} in the Python of every node, or start the job from a checkout.",
            )


def _joins() -> bool:
    """Whether there is a cluster to be joined."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ or "RAY_ADDRESS" in os.environ


def _runtime_env() -> dict[str, Any]:
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    if job.get("runtime_env", {}).get("working_dir"):
        return {}
    if _joins():
        return {"working_dir": str(CHECKOUT)} if is_checkout() else {}
    # A cluster of our own: the workers are processes of this machine, so the path is enough.
    path = os.pathsep.join(p for p in (str(CHECKOUT), os.environ.get("PYTHONPATH", "")) if p)
    return {"env_vars": {"PYTHONPATH": path}}
