"""A headless Chromium, spoken to over a pipe in its DevTools protocol: no port, no driver, no library."""

from __future__ import annotations

import base64
import itertools
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

LIMIT_S = 30
ARGUMENTS = [
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-gpu",
    "--disable-sync",
    "--hide-scrollbars",
    "--lang=en-US",
    "--force-color-profile=srgb",
]
# The browser reads commands from 3 and writes to 4.
LAUNCHER = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"


class Chromium:
    """One browser; its profile is in a folder that is thrown away."""

    def __init__(self, program: str, profile: Path) -> None:
        command_read, self._out = os.pipe()
        self._in, event_write = os.pipe()
        arguments = [program, *ARGUMENTS, f"--user-data-dir={profile}"]
        if os.geteuid() == 0:
            # Its sandbox needs a user who is not root; what it shows here is our own.
            arguments.append("--no-sandbox")
        self._process = subprocess.Popen(
            [sys.executable, "-c", LAUNCHER, str(command_read), str(event_write), *arguments],
            pass_fds=(command_read, event_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(command_read)
        os.close(event_write)
        self._buffer = b""
        self._numbers = itertools.count(1)
        self._events: list[dict[str, Any]] = []

    def close(self) -> None:
        os.close(self._out)
        try:
            self._process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        os.close(self._in)

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + LIMIT_S
        while True:
            answer = self._receive(deadline)
            assert answer is not None, f"{method} was not answered"
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self._events.append(answer)

    def events(self, session: str) -> list[dict[str, Any]]:
        """What has happened to a page and was not asked for yet."""
        while (event := self._receive(time.monotonic())) is not None:
            self._events.append(event)
        found = [event for event in self._events if event.get("sessionId") == session]
        self._events = [event for event in self._events if event.get("sessionId") != session]
        return found

    def _receive(self, deadline: float) -> dict[str, Any] | None:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(0, deadline - time.monotonic()))
            if not ready:
                return None
            received = os.read(self._in, 1 << 20)
            assert received, "the browser has ended"
            self._buffer += received
        message, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(message)

    def page(self, width: int = 1280, height: int = 900, scheme: str = "light") -> Page:
        return Page(self, width, height, scheme)


class Page:
    """One tab."""

    def __init__(self, browser: Chromium, width: int, height: int, scheme: str) -> None:
        self._browser = browser
        self._target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        attached = browser.call("Target.attachToTarget", targetId=self._target, flatten=True)
        self._session = attached["sessionId"]
        self.requests: list[str] = []
        self.complaints: list[str] = []
        for domain in ["Page", "Runtime", "Network", "Log"]:
            self.call(f"{domain}.enable")
        self.resize(width, height)
        self.set_scheme(scheme)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **parameters)

    def close(self) -> None:
        self._browser.call("Target.closeTarget", targetId=self._target)

    def resize(self, width: int, height: int) -> None:
        is_phone = width < 600
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if is_phone else 1,
            mobile=is_phone,
        )

    def set_scheme(self, scheme: str) -> None:
        self.call(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )

    def go(self, address: str) -> None:
        self.call("Page.navigate", url=address)

    def do(self, script: str) -> Any:
        """The value of an expression in the page."""
        result = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def until(self, script: str, limit_s: float = LIMIT_S) -> Any:
        """Waits until an expression is something, and gives it."""
        deadline = time.monotonic() + limit_s
        while True:
            # A part of the page may not be there yet.
            value = self.do(f"(() => {{ try {{ return {script}; }} catch {{ return null; }} }})()")
            if value:
                return value
            assert time.monotonic() < deadline, f"never: {script}\n{self.text()}"
            time.sleep(0.05)

    def text(self) -> str:
        return self.do("document.body.innerText")

    def look(self) -> None:
        """Takes in what the page has asked for and complained about."""
        for event in self._browser.events(self._session):
            parameters = event.get("params", {})
            match event["method"]:
                case "Network.requestWillBeSent":
                    self.requests.append(parameters["request"]["url"])
                case "Runtime.exceptionThrown":
                    self.complaints.append(json.dumps(parameters["exceptionDetails"]))
                case "Log.entryAdded" if parameters["entry"]["level"] in ("error", "warning"):
                    self.complaints.append(parameters["entry"]["text"])
                case "Runtime.consoleAPICalled" if parameters["type"] in ("error", "warning"):
                    self.complaints.append(json.dumps(parameters["args"]))

    def picture(self, file: Path) -> None:
        """All of the page, not only what fits the window."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        shot = self.call(
            "Page.captureScreenshot",
            captureBeyondViewport=True,
            clip={"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 4000), "scale": 1},
        )
        file.write_bytes(base64.b64decode(shot["data"]))
