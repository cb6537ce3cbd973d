"""Clusters are joined if they require a token, or are this machine alone."""

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
ELSEWHERE = "192.0.2.7"  # TEST-NET-1 (RFC 5737): reserved for documentation


class Dashboard(BaseHTTPRequestHandler):
    """A stand-in for Ray's dashboard: answers 401 without a token if one is required."""

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


def test_a_cluster_that_requires_a_token_is_joined_anywhere(
    caplog: pytest.LogCaptureFixture,
) -> None:
    check_closed([ELSEWHERE], closed=True)
    assert caplog.text == ""


def test_a_cluster_on_the_loopback_address_is_joined_without_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    check_closed(["127.0.0.1", "127.0.0.2"], closed=False)
    assert caplog.text == ""


def test_a_cluster_in_a_private_network_gives_a_warning_and_one_on_the_internet_is_refused(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.runtime.cluster._is_here", lambda address: True)
    with caplog.at_level(logging.WARNING):
        for address in (ELSEWHERE, "10.0.0.4", "172.17.0.2", "192.168.1.5", "fd00::1"):
            caplog.clear()
            check_closed(["127.0.0.1", address], closed=False)
            assert "ray get-auth-token --generate" in caplog.text
    with pytest.raises(UserError, match=r"8\.8\.8\.8.*--allow-open-cluster"):
        check_closed(["8.8.8.8"], closed=False)


def test_a_node_without_the_package_or_with_another_version_is_named() -> None:
    check_versions({"10.0.0.4": "0.1.0", ELSEWHERE: "0.1.0"}, "0.1.0")
    with pytest.raises(UserError) as caught:
        check_versions({"10.0.0.4": "0.1.0", ELSEWHERE: None}, "0.1.0")
    assert str(caught.value) == (
        "the node 192.0.2.7 of the Ray cluster: has no fastrcnn-ray, but this machine has 0.1.0. Install"
        " fastrcnn-ray 0.1.0 in the Python of every node, or start the job from a checkout."
    )
    with pytest.raises(UserError, match=r"10\.0\.0\.4.*has fastrcnn-ray 0\.0\.9, but this machine"):
        check_versions({"10.0.0.4": "0.0.9", ELSEWHERE: "0.1.0"}, "0.1.0")


UPLOADED = {"working_dir": str(CHECKOUT), "excludes": [".git", ".venv", "venv", "__pycache__"]}
JOB_WITH_FOLDER = '{"runtime_env": {"working_dir": "gcs://_ray_pkg_0.zip"}}'


@pytest.mark.parametrize(
    ("environment", "in_checkout", "installed"),
    [
        ({"RAY_JOB_CONFIG_JSON_ENV_VAR": JOB_WITH_FOLDER}, {}, {}),
        ({"RAY_JOB_CONFIG_JSON_ENV_VAR": "{}"}, UPLOADED, {}),
        ({"RAY_ADDRESS": "127.0.0.1:6379"}, UPLOADED, {}),
    ],
)
def test_only_a_checkout_is_sent_to_a_cluster_that_is_joined(
    environment: dict[str, str],
    in_checkout: dict[str, object],
    installed: dict[str, object],
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
def test_every_node_reports_its_version() -> None:
    """A busy node reports too, because the task needs no CPU."""
    (version,) = cluster.node_versions().values()
    assert version == "0.1.0"


def run_apart(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process without RAY_ and AWS_ variables, so that it starts another Ray."""
    kept = {name: os.environ[name] for name in os.environ if not name.startswith(("RAY_", "AWS_"))}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=CHECKOUT,
        env=kept | {"RAY_memory_monitor_refresh_ms": "0"} | environment,
        capture_output=True,
        text=True,
    )


START_RAY = """
import ray
from pathlib import Path
from pipeline.runtime import cluster
cluster.connect()
assert ray.get(ray.remote(lambda: 1).options(num_cpus=0).remote()) == 1
print("asks:", cluster.asks_for_token(ray.init(ignore_reinit_error=True).dashboard_url))
print("written:", (Path.home() / ".ray" / "auth_token").exists())
"""


def test_a_ray_that_a_job_starts_requires_a_token(tmp_path: Path) -> None:
    """No token file stays behind, because later clusters would use it."""
    done = run_apart(START_RAY, HOME=str(tmp_path))
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
def test_a_ray_that_starts_too_slowly_gives_one_line_of_error(tmp_path: Path) -> None:
    """As on a busy machine: the imports of the agent take longer than the raylet waits."""
    (tmp_path / "sitecustomize.py").write_text(SLOW_AGENT)
    done = run_apart(CONNECT, PYTHONPATH=str(tmp_path))
    assert done.stdout.startswith("said: Ray did not start on this machine"), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("mode", ["token", "disabled"])
def test_the_answer_of_the_dashboard_counts_more_than_the_environment(
    dashboard: tuple[int, str], mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    code, address = dashboard
    assert asks_for_token(address) == (code != 200)
    assert asks_for_token(f"http://{address}/") == (code != 200)


@pytest.mark.parametrize("address", [None, "", "127.0.0.1:1"])
def test_without_a_dashboard_the_environment_counts(
    address: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for mode in ("token", "disabled"):
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
        assert asks_for_token(address) == (mode == "token")
