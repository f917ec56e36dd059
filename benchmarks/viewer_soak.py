"""Ten minutes of a restless audience: random moves and panel changes from two browsers at once, and what it costs.

    python benchmarks/viewer_soak.py --load-config RUN/config.yml --minutes 10 --output soak.json

Starts ns-viewer on the run, connects two websocket clients that never pause for longer than a second, and at the end
asks both for a picture that they have not seen. Fails if one of them gets none, if the server has died or logged an
error, or if its memory has grown since the first third by more than a tenth.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from viewer_client import ViewerClient

START_SECONDS = 120.0
LAST_PICTURE_SECONDS = 60.0
SAMPLE_SECONDS = 5.0
GROWTH = 1.1


class Visitor(threading.Thread):
    """One browser: moves, and now and then changes something in the panel."""

    def __init__(self, port: int, seed: int, ends: float) -> None:
        super().__init__(daemon=True)
        self._client, self._random, self._ends = ViewerClient(port), random.Random(seed), ends
        self._elements: dict[str, dict[str, Any]] = {}
        self.moves = self.changes = self.pictures = 0
        self.live = False

    def run(self) -> None:
        self._look()
        while time.monotonic() < self._ends:
            self._receive(self._random.choice((0.03, 0.03, 0.1, 1.0)))
            if self._random.random() < 0.1 and self._elements:
                self._change()
            else:
                self._look()
        before = self.pictures
        deadline = time.monotonic() + LAST_PICTURE_SECONDS
        self._look()
        while self.pictures == before and time.monotonic() < deadline:
            self._receive(0.2)
        self.live = self.pictures > before

    def _look(self) -> None:
        angle = self._random.uniform(-0.5, 0.5)
        position = tuple(self._random.uniform(-3, 3) for _ in range(3))
        self._client.look(
            position, 16 / 9, (math.cos(angle), 0.0, math.sin(angle), 0.0), self._random.uniform(0.8, 1.4)
        )
        self.moves += 1

    def _change(self) -> None:
        """Sliders, numbers, lists and harmless buttons of our folders."""
        identity, element = self._random.choice(sorted(self._elements.items()))
        kind = element["type"]
        if kind == "GuiAddSliderMessage":
            steps = round((min(element["max"], element["min"] + 12) - element["min"]) / element["step"])
            value: Any = element["min"] + element["step"] * self._random.randint(0, steps)
        elif kind == "GuiAddNumberMessage":
            value = self._random.randint(0, 5)
        elif kind == "GuiAddDropdownMessage":
            value = self._random.choice(element["options"])
        else:  # a button
            value = True
        self._client.set(identity, value)
        self.changes += 1

    def _receive(self, seconds: float) -> None:
        for message in self._client.messages(seconds):
            if message["type"] == "BackgroundImageMessage":
                self.pictures += 1
            elif message.get("label") in LABELS and message["type"] in KINDS:
                self._elements[message["id"]] = message


KINDS = {f"GuiAdd{kind}Message" for kind in ("Slider", "Number", "Dropdown", "Button")}
LABELS = {
    *("Scene", "Context views", "Steps at rest", "Steps while moving", "Seed", "New sample", "Previous views"),
    *("Beside the square", "Tokens used"),
}


def memory(pid: int) -> float:
    """Resident memory of a process in MiB. Linux only."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:"))


def soak(config: Path, minutes: float) -> dict[str, Any]:
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
            ends = time.monotonic() + 60 * minutes
            visitors = [Visitor(port, seed, ends) for seed in range(2)]
            for visitor in visitors:
                visitor.start()
            used = []
            while any(visitor.is_alive() for visitor in visitors):
                used.append(memory(server.pid))
                time.sleep(SAMPLE_SECONDS)
            dead = server.poll() is not None
        finally:
            server.kill()
            server.wait()
        errors = [line for line in log.read_text().splitlines() if "Traceback" in line or "Error" in line]
    third = len(used) // 3
    return {
        "minutes": minutes,
        "both_live": all(visitor.live for visitor in visitors) and not dead,
        "errors": errors[:5],
        "moves": sum(visitor.moves for visitor in visitors),
        "changes": sum(visitor.changes for visitor in visitors),
        "pictures": sum(visitor.pictures for visitor in visitors),
        "memory_mib_after_a_third": max(used[: third + 1]),
        "memory_mib_at_the_end": max(used[-third - 1 :]),
        "memory_mib": [round(value) for value in used],
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
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    result = soak(options.load_config, options.minutes)
    print(json.dumps(result))
    if options.output is not None:
        options.output.write_text(json.dumps(result, indent=2))
    grown = result["memory_mib_at_the_end"] > GROWTH * result["memory_mib_after_a_third"]
    if not result["both_live"] or result["errors"] or grown:
        raise SystemExit("the soak failed")


if __name__ == "__main__":
    main()
