"""Processes that are copies of this one.

They start at once, because they have imported Nerfstudio and torch already, for which a new Python needs ten seconds.
They can be killed, and whatever they change stays theirs. They cannot train: torch refuses backward passes in a copy of
a process that has used several threads for its own.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from support.tool_processes import environment

LIMIT_S = 60
"""Seconds that a copy may take to end. A copy that waits for a lock of a thread that it does not have never ends."""


class Fork(multiprocessing.get_context("fork").Process):  # type: ignore[misc,name-defined]
    """A copy of this process, with the methods of `subprocess.Popen` that tests use.

    It computes with one thread, because threads of OpenMP are not copied and would be waited for forever.
    """

    def run(self) -> None:
        torch.set_num_threads(1)
        super().run()

    def poll(self) -> int | None:
        return self.exitcode

    def send_signal(self, number: int) -> None:
        assert self.pid is not None
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Wait for the end. Returns the exit code, or minus the number of the signal that ended the process.

        Raises AssertionError if the process has not ended after `LIMIT_S` seconds.
        """
        self.join(LIMIT_S)
        assert self.exitcode is not None, f"the process did not end in {LIMIT_S} seconds"
        return self.exitcode


@contextmanager
def forked(function: Callable[..., Any], *arguments: Any) -> Iterator[Fork]:
    """Run a function in a copy of this process, which is killed when the context ends."""
    process = Fork(target=function, args=arguments)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


@contextmanager
def forked_tool(log: Path, *command: object) -> Iterator[Fork]:
    """Run a tool of Nerfstudio in a copy of this process. It writes its output to `log`."""
    log.touch()
    with forked(_tool, log, list(map(str, command))) as process:
        yield process


def _tool(log: Path, words: list[str]) -> None:
    from support.docs_runner import TOOLS, forget_writers  # imports Nerfstudio

    output = log.open("w", buffering=1)
    for number in (1, 2):
        os.dup2(output.fileno(), number)
    sys.stdout = sys.stderr = output
    sys.argv = words
    os.environ.update(environment())
    warnings.simplefilter("ignore")
    forget_writers()
    importlib.import_module(TOOLS[words[0]]).entrypoint()


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread, as copies do, where results must be the same to the last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
