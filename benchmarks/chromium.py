"""A headless Chromium, driven over the DevTools protocol, with what the viewer's tests and soak need.

It uses `websockets`, which viser needs anyway. A driver such as Selenium or Playwright would be another dependency for
a dozen messages.
"""

from __future__ import annotations

import base64
import io
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from websockets.sync.client import connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--mute-audio"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions"),
    *("--disable-background-timer-throttling", "--disable-renderer-backgrounding", "--disable-dev-shm-usage"),
    *("--enable-unsafe-swiftshader", "--remote-debugging-port=0", "--remote-allow-origins=*"),
)


def find_chromium() -> str | None:
    """Path of the browser: `CHROMIUM` in the environment, else a Chromium of this machine, else None."""
    found = (shutil.which(name) for name in (os.environ.get("CHROMIUM", ""), *NAMES) if name)
    return next((path for path in found if path), None)


class Chromium:
    """A browser with one page. Its user data are in a temporary folder."""

    def __init__(self, size: tuple[int, int] = (1280, 720)) -> None:
        self.size = size
        self.console: list[str] = []
        """Errors, warnings and uncaught exceptions of the page, as text."""
        self._ids = itertools.count(1)

    def __enter__(self) -> Chromium:
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        command = [find_chromium() or "chromium", *OPTIONS, f"--user-data-dir={self._folder.name}", "about:blank"]
        self._process = subprocess.Popen(
            [*command, "--window-size={},{}".format(*self.size)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            port = self._debugging_port()
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=20) as answer:
                page = next(target for target in json.load(answer) if target["type"] == "page")
            self._socket = connect(page["webSocketDebuggerUrl"], max_size=None)
            width, height = self.size
            self.send(
                "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
            )
            for domain in ("Page", "Runtime", "Log"):
                self.send(f"{domain}.enable")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._socket.close()
        self._end()

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()

    def _debugging_port(self) -> int:
        file = Path(self._folder.name, "DevToolsActivePort")
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            assert self._process.poll() is None, "chromium ended at once"
            if file.exists() and len(lines := file.read_text().split()) > 1:
                return int(lines[0])
            time.sleep(0.05)
        raise AssertionError("chromium did not open its debugging port in 60 s")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its answer. Events that arrive in between are recorded."""
        number = next(self._ids)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=60))
            if message.get("id") == number:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]
            self._note(message)

    def _note(self, event: dict[str, Any]) -> None:
        what = event.get("params", {})
        if event.get("method") == "Runtime.consoleAPICalled" and what["type"] in ("error", "warning", "assert"):
            self.console.append(" ".join(str(part.get("value", part.get("description"))) for part in what["args"]))
        elif event.get("method") == "Runtime.exceptionThrown":
            details = what["exceptionDetails"]
            self.console.append(details.get("exception", {}).get("description", details["text"]))
        elif event.get("method") == "Log.entryAdded" and what["entry"]["level"] in ("error", "warning"):
            self.console.append(f"{what['entry']['text']} {what['entry'].get('url', '')}")

    def open(self, url: str) -> None:
        self.send("Page.navigate", url=url)

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression."""
        result = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, condition: str | Callable[[], Any], seconds: float = 60) -> Any:
        """Wait until a JavaScript expression or a function has a true value, and return it."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if found := self.evaluate(condition) if isinstance(condition, str) else condition():
                return found
            time.sleep(0.1)
        raise AssertionError(f"{condition} did not come true in {seconds} s; console: {self.console[-5:]}")

    def screenshot(self, file: Path | None = None) -> UInt8[np.ndarray, "h w 3"]:
        data = base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"])
        if file is not None:
            file.write_bytes(data)
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """Send a mouse event; `kind` is Pressed, Moved, Released or Wheel."""
        self.send("Input.dispatchMouseEvent", type=f"mouse{kind}", x=x, y=y, button="left", **more)

    def click(self, x: float, y: float) -> None:
        self.mouse("Pressed", x, y, clickCount=1)
        self.mouse("Released", x, y, clickCount=1)

    def drag(self, start: tuple[float, float], end: tuple[float, float], steps: int = 8) -> None:
        self.mouse("Pressed", *start, clickCount=1)
        for step in range(1, steps + 1):
            x, y = (a + (b - a) * step / steps for a, b in zip(start, end, strict=True))
            self.mouse("Moved", x, y, buttons=1)
        self.mouse("Released", *end, clickCount=1)

    def type(self, text: str) -> None:
        self.send("Input.insertText", text=text)

    def key(self, name: str, code: int) -> None:
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=name, code=name, windowsVirtualKeyCode=code)
