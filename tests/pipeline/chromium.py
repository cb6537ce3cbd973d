"""A headless Chromium for tests, over its DevTools protocol: no driver to install, any Chromium will do.

`.ci/run` installs the chromium of Debian where there is no browser.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

import aiohttp

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_START_S = 60


def find() -> str | None:
    """The path of a Chromium on PATH."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Chromium:
    """One page. `problems`: exceptions, console errors, and requests of anything but files and data."""

    def __init__(self, program: str, profile: Path) -> None:
        flags = ["--headless=new", "--disable-gpu", "--remote-debugging-port=0", "--no-first-run"]
        if os.geteuid() == 0:
            flags.append("--no-sandbox")  # Chromium refuses to run as root with one, as CI does
        self._process = subprocess.Popen(
            [program, *flags, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._runner = asyncio.Runner()
        self._number = 0
        self.problems: list[str] = []
        self._runner.run(self._connect(profile / "DevToolsActivePort"))
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Chromium:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._runner.run(self._close())
        self._runner.close()
        self._process.terminate()
        self._process.wait(timeout=30)

    async def _connect(self, port_file: Path) -> None:
        deadline = time.monotonic() + _START_S
        while not (port_file.exists() and "\n" in port_file.read_text()):
            assert self._process.poll() is None, f"Chromium ended with {self._process.returncode}"
            assert time.monotonic() < deadline, "Chromium opened no debugging port"
            await asyncio.sleep(0.05)
        port = port_file.read_text().split("\n")[0]
        self._session = aiohttp.ClientSession()
        async with self._session.get(f"http://127.0.0.1:{port}/json") as answer:
            pages = [target for target in await answer.json() if target["type"] == "page"]
        self._socket = await self._session.ws_connect(
            pages[0]["webSocketDebuggerUrl"], max_msg_size=0
        )

    async def _close(self) -> None:
        await self._socket.close()
        await self._session.close()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol; its result."""
        return self._runner.run(self._call(method, parameters))

    async def _call(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": parameters})
        while True:
            message = await self._socket.receive_json(timeout=_START_S)
            if message.get("id") == self._number:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result
            self._note(message.get("method", ""), message.get("params", {}))

    def _note(self, event: str, about: dict[str, Any]) -> None:
        if event in ("Runtime.exceptionThrown", "Log.entryAdded"):
            self.problems.append(str(about))
        if event == "Network.requestWillBeSent":
            url = about["request"]["url"]
            if not url.startswith(("data:", "file:", "about:")):
                self.problems.append(f"asked for {url}")

    def open(self, page: Path, *, width: int = 1280, fragment: str = "") -> float:
        """Open a page of this machine and wait until its script is done; the seconds that took."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 500,
        )
        self.call("Page.navigate", url="about:blank")
        started = time.monotonic()
        self.call("Page.navigate", url=f"file://{quote(str(page))}{fragment}")
        while self.value("document.documentElement.dataset.ready") != "yes":
            assert time.monotonic() < started + _START_S, self.problems
            time.sleep(0.02)
        return time.monotonic() - started

    def open_cpu_s(self, page: Path) -> float:
        """Open a page; the CPU seconds of its main thread, to which other work does not add."""
        self.call("Page.navigate", url="about:blank")
        self.call("Performance.enable", timeDomain="threadTicks")
        before = self._task_s()
        self.open(page)
        return self._task_s() - before

    def _task_s(self) -> float:
        metrics = self.call("Performance.getMetrics")["metrics"]
        return next(float(one["value"]) for one in metrics if one["name"] == "TaskDuration")

    def value(self, expression: str) -> Any:
        """What a JavaScript expression gives, as JSON types; None where it fails."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return result["result"].get("value")

    def press(self, key: str) -> None:
        """Press a key as a person would."""
        codes = {"Tab": 9, "Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowRight": 39}
        about = {"key": key, "code": key, "windowsVirtualKeyCode": codes[key]}
        text = {"text": "\r"} if key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **about, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **about)
