"""Test the viewer with minutes of random moves and panel changes from two browsers at once, and watch its memory.

    python benchmarks/viewer_soak.py --load-config RUN/config.yml --minutes 10 --output soak.json
    python benchmarks/viewer_soak.py --load-config RUN/config.yml --browsers 0 --clients 2     # bare websockets: faster

Starts ns-viewer on the run, opens its page in headless Chromiums (or connects websocket clients) that never pause for
longer than a second, and at the end lets each request a picture that it has not seen. Fails if one of them gets none,
if the server has died or logged an error, if the console of a page contains an error, or if the server's memory (median
of a minute) has grown by more than a tenth since the third minute, until which caches fill.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import random
import shutil
import socket
import statistics
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from viewer_client import ViewerClient
from viewer_page import CENTRE, ViewerPage, errors_in

START_SECONDS = 120.0
LAST_PICTURE_SECONDS = 120.0
MEETING_SECONDS = 120.0
"""Maximum time that a visitor waits for the others to end their changes, before each looks for its last picture."""
SAMPLE_SECONDS = 2.0
WARM_UP_MINUTES = 2
GROWTH = 1.1


class Visitor(threading.Thread):
    """A user of the viewer, who moves the camera and sometimes changes something in the panel."""

    last_look = threading.Lock()
    """All visitors share a scene and its settings, so they look for their last pictures one after the other."""

    def __init__(self, seed: int, ends: float, meeting: threading.Barrier) -> None:
        super().__init__(daemon=True)
        self.random, self._ends, self._meeting = random.Random(seed), ends, meeting
        self.moves = self.changes = 0
        self.pictures = 0
        self.live = False
        self.complaints: list[str] = []

    def run(self) -> None:
        self.look()
        while time.monotonic() < self._ends:
            self.pause(self.random.choice((0.03, 0.03, 0.1, 1.0)))
            if self.random.random() < 0.1:
                self.changes += self.change()
            else:
                self.look()
                self.moves += 1
        with contextlib.suppress(threading.BrokenBarrierError):  # another visitor has failed
            self._meeting.wait(MEETING_SECONDS)
        with self.last_look:
            self.live = self.sees_something_new()
        self.leave()

    def look(self) -> None:
        """Move the camera."""
        raise NotImplementedError

    def change(self) -> bool:
        """Change something in the panel. Returns whether there was anything to change."""
        raise NotImplementedError

    def pause(self, seconds: float) -> None:
        """Receive pictures for some seconds."""
        raise NotImplementedError

    def sees_something_new(self) -> bool:
        """Whether another move still leads to a picture."""
        raise NotImplementedError

    def leave(self) -> None:
        """Close the connection."""
        raise NotImplementedError


class Client(Visitor):
    """A bare websocket client."""

    KINDS = tuple(f"GuiAdd{kind}Message" for kind in ("Slider", "Number", "Dropdown", "Button"))
    LABELS = (
        *("Scene", "Context views", "Steps at rest", "Steps while moving", "Seed", "New sample", "Previous views"),
        *("Beside the square", "Tokens used", "Quality at rest", "Other seed (A/B)", "Undo", "Encode these views"),
        *("View", "Go to view", "Next view", "Previous view", "Display"),
        *("Path", "Frames", "Render video", "Stop video", "Download video", "Snapshot"),
        *("Saved tokens", "Save tokens", "Open saved tokens", "Download tokens", "Forget them"),
    )
    """Everything in the panel except uploads. "Frames" stays small, so that videos are short."""

    def __init__(self, port: int, seed: int, ends: float, meeting: threading.Barrier) -> None:
        super().__init__(seed, ends, meeting)
        self._client = ViewerClient(port)
        self._elements: dict[str, dict[str, Any]] = {}

    def look(self) -> None:
        angle = self.random.uniform(-0.5, 0.5)
        position = tuple(self.random.uniform(-3, 3) for _ in range(3))
        turned = math.cos(angle), 0.0, math.sin(angle), 0.0
        self._client.look(position, 16 / 9, turned, self.random.uniform(0.8, 1.4))

    def change(self) -> bool:
        """Change a slider, number or list, or press a button, in our folders."""
        if not self._elements:
            return False
        identity, element = self.random.choice(sorted(self._elements.items()))
        kind = element["type"]
        if kind == "GuiAddSliderMessage":
            steps = round((min(element["max"], element["min"] + 12) - element["min"]) / element["step"])
            value: Any = element["min"] + element["step"] * self.random.randint(0, steps)
        elif kind == "GuiAddNumberMessage":
            value = self.random.randint(0, 5)
        elif kind == "GuiAddDropdownMessage":
            value = self.random.choice(element["options"])
        else:  # a button
            value = True
        self._client.set(identity, value)
        return True

    def pause(self, seconds: float) -> None:
        for message in self._client.messages(seconds):
            if message["type"] == "BackgroundImageMessage":
                self.pictures += 1
            elif message.get("label") in self.LABELS and message["type"] in self.KINDS:
                self._elements[message["id"]] = message

    def sees_something_new(self) -> bool:
        before, deadline = self.pictures, time.monotonic() + LAST_PICTURE_SECONDS
        self.look()
        while self.pictures == before and time.monotonic() < deadline:
            self.pause(0.2)
        return self.pictures > before

    def leave(self) -> None:
        self._client.__exit__(None, None, None)


class Browser(Visitor):
    """A headless Chromium."""

    NUMBERS = (("Seed", 0, 5), ("Tokens used", 1, 256))  # models made for one step have no choice of steps
    NUMBERS += (("Context views", 2, 12), ("Previous views", 0, 3), ("Frames", 1, 5))
    BUTTONS = ("New sample", "Encode these views", "Other seed (A/B)", "Undo", "Render video", "Stop video")
    CHOICES = (("Beside the square", ("border", "fill")), ("Path", ("orbit", "zoom")))
    OUTPUTS = ("rgb", "depth", "uncertainty", "accumulation", "photograph", "difference")

    def __init__(self, port: int, seed: int, ends: float, meeting: threading.Barrier) -> None:
        super().__init__(seed, ends, meeting)
        self._page = ViewerPage()
        self._page.is_covered = True
        self._page.__enter__()
        self._page.enter(port)
        self._scenes = self._page.options("Scene")

    def look(self) -> None:
        if self.random.random() < 0.2:
            self._page.mouse("Wheel", *CENTRE, deltaX=0, deltaY=self.random.uniform(-200, 200))
        else:
            across, up = self.random.uniform(-120, 120), self.random.uniform(-30, 30)
            self._page.drag(CENTRE, (CENTRE[0] + across, CENTRE[1] + up), steps=self.random.randint(2, 12))

    def change(self) -> bool:
        kind = self.random.random()
        if kind < 0.5:
            label, least, most = self.random.choice(self.NUMBERS)
            self._page.fill(label, self.random.randint(least, most))
        elif kind < 0.8:
            label, options = self.random.choice((*self.CHOICES, ("Scene", self._scenes)))
            self._page.choose(label, self.random.choice(options))
        elif kind < 0.85:
            self._page.choose_output(self.random.choice(self.OUTPUTS))
        elif kind < 0.92:
            self._page.press(self.random.choice(self.BUTTONS), renders=False)
        else:
            name = self.random.choice("npgbuf")
            self._page.key(name, ord(name.upper()))
        return True

    def pause(self, seconds: float) -> None:
        time.sleep(seconds)
        self.pictures = self._page.pictures()

    def sees_something_new(self) -> bool:
        """Whether the canvas, not only the connection, gets another picture, from a place with something to see: the
        start camera of a scene that is not displayed yet. Choosing the displayed one would change nothing."""
        self._page.choose_output("rgb")
        shown = self._page.value("Scene")
        self._page.choose("Scene", next(name for name in self._scenes if name != shown))
        before = self._page.settle(LAST_PICTURE_SECONDS)
        self._page.turn(150)
        self._page.shows(lambda now: abs(now - before).mean() > 1, LAST_PICTURE_SECONDS)
        self.pictures = self._page.pictures()
        return True

    def leave(self) -> None:
        self.complaints = self._page.complaints()
        self._page.__exit__(None, None, None)


def memory(pid: int) -> float:
    """Resident memory of a process in MiB. Linux only."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:"))


def soak(config: Path, minutes: float, browsers: int, clients: int) -> dict[str, Any]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        command = [shutil.which("ns-viewer") or "ns-viewer", "--load-config", str(config)]
        with open(log, "w") as output:
            server = subprocess.Popen(
                [*command, "--viewer.websocket-port", str(port)], stdout=output, stderr=subprocess.STDOUT
            )
        try:
            wait_for_port(port, server)
            started = time.monotonic()
            ends = started + 60 * minutes
            meeting = threading.Barrier(browsers + clients)
            visitors: list[Visitor] = [Browser(port, seed, ends, meeting) for seed in range(browsers)]
            visitors += [Client(port, browsers + seed, ends, meeting) for seed in range(clients)]
            for visitor in visitors:
                visitor.start()
            used: dict[int, list[float]] = {}
            while any(visitor.is_alive() for visitor in visitors):
                minute = int((time.monotonic() - started) / 60)
                used.setdefault(minute, []).append(memory(server.pid))
                time.sleep(SAMPLE_SECONDS)
            dead = server.poll() is not None
        finally:
            server.kill()
            server.wait()
        errors = errors_in(log.read_text())
    return {
        "minutes": minutes,
        "browsers": browsers,
        "clients": clients,
        "all_live": all(visitor.live for visitor in visitors) and not dead,
        "errors": errors[:5],
        "complaints": [line for visitor in visitors for line in visitor.complaints][:5],
        "moves": [visitor.moves for visitor in visitors],
        "changes": [visitor.changes for visitor in visitors],
        "pictures": [visitor.pictures for visitor in visitors],
        "memory_mib": [
            {"least": round(min(part)), "median": round(statistics.median(part)), "most": round(max(part))}
            for part in used.values()
        ],
    }


def wait_for_port(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                time.sleep(3)
                return
        time.sleep(0.2)
    raise SystemExit("ns-viewer did not start")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--load-config", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--browsers", type=int, default=2)
    parser.add_argument("--clients", type=int, default=0)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    result = soak(options.load_config, options.minutes, options.browsers, options.clients)
    print(json.dumps(result))
    if options.output is not None:
        options.output.write_text(json.dumps(result, indent=2))
    medians = [part["median"] for part in result["memory_mib"]]
    grown = max(medians[-3:]) > GROWTH * medians[min(WARM_UP_MINUTES, len(medians) - 1)]
    if not result["all_live"] or result["errors"] or result["complaints"] or grown:
        raise SystemExit("the soak failed")


if __name__ == "__main__":
    main()
