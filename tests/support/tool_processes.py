"""Run Nerfstudio's tools as processes, to their end or in the background."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BIN = Path(sys.executable).parent


def environment() -> dict[str, str]:
    # ns-render wants ffmpeg on PATH; make links it into the environment's bin.
    return {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "PYTHONWARNINGS": "ignore"}


def tool(*command: object) -> str:
    """Run a tool to its end. If it fails, the error shows its output."""
    words = [str(BIN / str(command[0])), *map(str, command[1:])]
    done = subprocess.run(words, env=environment(), text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@contextmanager
def running(log: Path, *command: object) -> Iterator[subprocess.Popen[str]]:
    words = [str(BIN / str(command[0])), *map(str, command[1:])]
    with open(log, "w") as output:
        process = subprocess.Popen(words, env=environment(), text=True, stdout=output, stderr=output)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def wait_for(condition: Any, process: subprocess.Popen[str], log: Path, seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-3000:]
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"nothing happened in {seconds} s: {log.read_text()[-3000:]}")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def page(port: int) -> bytes:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=2) as answer:
            return answer.read()
    except OSError:
        return b""
