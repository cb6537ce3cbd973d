"""Which clusters are joined: those that ask for a token, and those of this machine alone."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.runtime import cluster
from pipeline.runtime.cluster import asks_for_token, check_closed, check_versions

CHECKOUT = Path(__file__).resolve().parents[3]
ELSEWHERE = "192.0.2.7"  # TEST-NET-1 (RFC 5737): nobody's address


class Dashboard(BaseHTTPRequestHandler):
    """Ray's, in what matters here: 401 for who brings no token, where one is asked for."""

    code = 200

    def do_GET(self) -> None:  # noqa: N802 - the base class names it
        self.send_response(self.code)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(params=[200, 401, 403])
def dashboard(request: pytest.FixtureRequest) -> Iterator[tuple[int, str]]:
    handler = type("Coded", (Dashboard,), {"code": request.param})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield request.param, f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_an_open_cluster_of_other_machines_is_refused() -> None:
    with pytest.raises(UserError, match=r"192\.0\.2\.7.*RAY_AUTH_MODE=token.*--allow-open-cluster"):
        check_closed(["127.0.0.1", ELSEWHERE], closed=False)


def test_a_closed_cluster_is_joined_wherever_it_is(caplog: pytest.LogCaptureFixture) -> None:
    check_closed([ELSEWHERE], closed=True)
    assert caplog.text == ""


def test_an_open_cluster_of_this_machine_is_joined(caplog: pytest.LogCaptureFixture) -> None:
    check_closed(["127.0.0.1", "127.0.0.2"], closed=False)
    assert caplog.text == ""


def test_one_in_a_network_of_its_own_is_warned_of_and_one_in_the_internet_refused(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.runtime.cluster._is_here", lambda address: True)
    with caplog.at_level(logging.WARNING):
        for own in (ELSEWHERE, "10.0.0.4", "172.17.0.2", "192.168.1.5", "fd00::1"):
            caplog.clear()
            check_closed(["127.0.0.1", own], closed=False)
            assert "ray get-auth-token --generate" in caplog.text
    with pytest.raises(UserError, match=r"8\.8\.8\.8.*--allow-open-cluster"):
        check_closed(["8.8.8.8"], closed=False)


def test_a_node_without_the_package_or_with_another_version_is_named() -> None:
    check_versions({"10.0.0.4": "0.1.0", ELSEWHERE: "0.1.0"}, "0.1.0")
    with pytest.raises(UserError) as caught:
        check_versions({"10.0.0.4": "0.1.0", ELSEWHERE: None}, "0.1.0")
    assert str(caught.value) == (
        "the node 192.0.2.7 of the Ray cluster: has no fastrcnn-ray, this machine has 0.1.0. Install"
        " fastrcnn-ray 0.1.0 in the Python of every node, or start the job from a checkout."
    )
    with pytest.raises(UserError, match=r"10\.0\.0\.4.*has fastrcnn-ray 0\.0\.9, this machine has"):
        check_versions({"10.0.0.4": "0.0.9", ELSEWHERE: "0.1.0"}, "0.1.0")


JOB_WITH_FOLDER = '{"runtime_env": {"working_dir": "gcs://_ray_pkg_0.zip"}}'


@pytest.mark.parametrize(
    ("environment", "in_checkout", "installed"),
    [
        ({"RAY_JOB_CONFIG_JSON_ENV_VAR": JOB_WITH_FOLDER}, {}, {}),
        ({"RAY_JOB_CONFIG_JSON_ENV_VAR": "{}"}, {"working_dir": str(CHECKOUT)}, {}),
        ({"RAY_ADDRESS": "127.0.0.1:6379"}, {"working_dir": str(CHECKOUT)}, {}),
    ],
)
def test_only_a_checkout_is_sent_to_a_cluster_that_is_joined(
    environment: dict[str, str],
    in_checkout: dict[str, str],
    installed: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    for name in ("RAY_JOB_CONFIG_JSON_ENV_VAR", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cluster.is_checkout()
    assert cluster._runtime_env() == in_checkout
    monkeypatch.setattr(cluster, "CHECKOUT", tmp_path)
    assert not cluster.is_checkout()
    assert cluster._runtime_env() == installed


@pytest.mark.usefixtures("ray_cluster")
def test_every_node_says_its_version() -> None:
    """Also one that is busy: the question takes no CPU."""
    (version,) = cluster.node_versions().values()
    assert version == "0.1.0"


def run_apart(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """In a process that is told of no cluster and no store, and so starts a Ray of its own."""
    own = {name: os.environ[name] for name in os.environ if not name.startswith(("RAY_", "AWS_"))}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=CHECKOUT,
        env=own | {"RAY_memory_monitor_refresh_ms": "0"} | environment,
        capture_output=True,
        text=True,
    )


OWN = """
import ray
from pathlib import Path
from pipeline.runtime import cluster
cluster.connect()
assert ray.get(ray.remote(lambda: 1).options(num_cpus=0).remote()) == 1
print("asks:", cluster.asks_for_token(ray.init(ignore_reinit_error=True).dashboard_url))
print("written:", (Path.home() / ".ray" / "auth_token").exists())
"""


def test_a_ray_that_a_job_starts_lets_nobody_else_in(tmp_path: Path) -> None:
    """And leaves no token behind that later clusters would obey."""
    done = run_apart(OWN, HOME=str(tmp_path))
    assert "asks: True\nwritten: False" in done.stdout, done.stderr
    assert "oken" not in done.stderr


SLOW_AGENT = """
import sys, time
if any(part.endswith("dashboard/agent.py") for part in sys.orig_argv):
    time.sleep(120)
"""
CONNECT = """
from pipeline.runtime import cluster
from pipeline.errors import JobError
try:
    cluster.connect()
except JobError as error:
    print("said:", error)
"""


@pytest.mark.long
def test_a_ray_that_starts_too_slowly_is_said_in_one_line(tmp_path: Path) -> None:
    """As on a machine where much else runs: the agent imports for longer than the raylet waits for it."""
    (tmp_path / "sitecustomize.py").write_text(SLOW_AGENT)
    done = run_apart(CONNECT, PYTHONPATH=str(tmp_path))
    assert done.stdout.startswith("said: Ray did not start on this machine"), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("mode", ["token", "disabled"])
def test_the_dashboard_is_believed_more_than_our_own_word(
    dashboard: tuple[int, str], mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    code, address = dashboard
    assert asks_for_token(address) == (code != 200)
    assert asks_for_token(f"http://{address}/") == (code != 200)


@pytest.mark.parametrize("address", [None, "", "127.0.0.1:1"])
def test_where_there_is_no_dashboard_our_word_counts(
    address: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for mode in ("token", "disabled"):
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
        assert asks_for_token(address) == (mode == "token")
