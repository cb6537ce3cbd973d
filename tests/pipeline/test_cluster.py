"""Which clusters are joined: those that ask for a token, and those of this machine alone."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from pipeline.cluster import asks_for_token, check_closed
from pipeline.errors import UserError

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


def test_one_that_others_can_reach_is_warned_of(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.cluster._is_here", lambda address: True)
    with caplog.at_level(logging.WARNING):
        check_closed([ELSEWHERE], closed=False)
    assert "listens on every interface" in caplog.text


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
