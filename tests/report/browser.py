"""A headless Chromium that is told what to do through its DevTools protocol."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

from tests.flows.servers import process, wait_for

PATIENCE = 120.0  # seconds for one answer; this machine may be shared
_CODES = {
    name: {"windowsVirtualKeyCode": code}
    for name, code in {"Enter": 13, "ArrowLeft": 37, "ArrowRight": 39, "Tab": 9}.items()
}


class Tab:
    """One page. `requests` are the addresses that were asked for since it was last opened."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket, self._numbers, self._session = socket, itertools.count(1), ""
        self._events: list[dict[str, Any]] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self._call(f"{domain}.enable")

    def open(self, page: Path | str, width: int) -> None:
        """Load a file or an address into a window of this width, in CSS pixels, and wait until all of it is there."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", **size)
        self._events.clear()
        self._call("Page.navigate", url=page.as_uri() if isinstance(page, Path) else page)
        while not any(event["method"] == "Page.loadEventFired" for event in self._events):
            self._receive()

    @property
    def requests(self) -> list[str]:
        return [
            event["params"]["request"]["url"]
            for event in self._events
            if event["method"] == "Network.requestWillBeSent"
        ]

    @property
    def errors(self) -> list[str]:
        """What the page wrote to its console as an error since it was last opened."""
        entries = [event["params"]["entry"] for event in self._events if event["method"] == "Log.entryAdded"]
        thrown = [str(event["params"]) for event in self._events if event["method"] == "Runtime.exceptionThrown"]
        return thrown + [entry["text"] for entry in entries if entry["level"] == "error"]

    def value(self, expression: str) -> Any:
        """What a JavaScript expression gives in the page."""
        return self._call("Runtime.evaluate", expression=expression, returnByValue=True)["result"]["value"]

    def press(self, *keys: str) -> None:
        """Press keys one after the other: characters, or names such as ArrowLeft, Tab and Enter."""
        for key in keys:
            typed = {"text": "\r" if key == "Enter" else key} if len(key) == 1 or key == "Enter" else {}
            self._call("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, **typed, **_CODES.get(key, {}))
            self._call("Input.dispatchKeyEvent", type="keyUp", key=key, code=key, **_CODES.get(key, {}))

    def wait(self, expression: str) -> None:
        """Wait until a JavaScript expression is true."""
        deadline = time.monotonic() + PATIENCE
        while not self.value(expression):
            assert time.monotonic() < deadline, expression
            time.sleep(0.005)

    def download_to(self, folder: Path) -> None:
        """Save what the page saves into `folder`, without asking."""
        self._call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))

    def dark(self, on: bool) -> None:
        """Ask for dark or light pages, as the system's setting does."""
        features = [{"name": "prefers-color-scheme", "value": "dark" if on else "light"}]
        self._call("Emulation.setEmulatedMedia", features=features)

    def screenshot(self, whole: bool = False) -> bytes:
        """The window as PNG, or the whole page."""
        return base64.b64decode(self._call("Page.captureScreenshot", captureBeyondViewport=whole)["data"])

    def pdf(self) -> bytes:
        """The page as it is printed."""
        return base64.b64decode(self._call("Page.printToPDF", printBackground=True)["data"])

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._socket.send(json.dumps(message))
        while (answer := self._receive()).get("id") != number:
            pass
        assert "error" not in answer, f"{method}: {answer['error']}"
        result: dict[str, Any] = answer["result"]
        return result

    def _receive(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self._socket.recv(timeout=PATIENCE))
        if "method" in message:
            self._events.append(message)
        return message


@contextlib.contextmanager
def tab(chromium: str, folder: Path) -> Iterator[Tab]:
    """A page of a fresh browser, its profile below `folder`."""
    profile = folder / "profile"
    command = [
        chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--disable-background-networking", "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank",
    ]  # fmt: skip
    environment = {**os.environ, "HOME": str(folder), "NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1"}
    log, port = folder / "chromium.log", profile / "DevToolsActivePort"
    with process(command, environment, log, folder) as child:

        def listening() -> list[str]:
            assert child.poll() is None, f"the browser ended:\n{log.read_text(errors='replace')[-3000:]}"
            return port.read_text().split() if port.exists() else []

        number, path = wait_for("the start of the browser", lambda: listening()[:2], PATIENCE, log)
        with connect(f"ws://127.0.0.1:{number}{path}", max_size=None, open_timeout=PATIENCE, proxy=None) as socket:
            yield Tab(socket)
