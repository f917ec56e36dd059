"""Run commands of the docs in this process, because starting Python and Nerfstudio takes longer than most of them."""

from __future__ import annotations

import argparse
import functools
import importlib
import inspect
import os
import re
import runpy
import socket
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import tyro
from nerfstudio.engine.trainer import writer  # its own module cannot be the first that is imported
from support.docs_pages import ROOT, Command

from scenetok_ns.cli.main import entrypoint as scenetok

TOOLS = {
    "ns-train": "nerfstudio.scripts.train",
    "ns-eval": "nerfstudio.scripts.eval",
    "ns-export": "nerfstudio.scripts.exporter",
    "ns-render": "nerfstudio.scripts.render",
    "ns-viewer": "nerfstudio.scripts.viewer.run_viewer",
}
LAUNCHERS = ("torchrun", "srun")
OURS = ("scenetok", "ns-train")
"""Programs that launchers start."""


class CommandError(AssertionError):
    """A command of a page failed."""


class _ParsedError(BaseException):
    """A command has read its options, and would begin its work now.

    This is not an Exception, because commands report every Exception as their own error.
    """


def run(command: Command, folder: Path) -> None:
    """Run a command in `folder` to its end. Raises CommandError, or the command's own exception."""
    with _as_a_process(command, folder):
        if command.program == "ns-viewer":
            _run_viewer(command)
        else:
            _call(command)


def check_options(command: Command, folder: Path) -> None:
    """Let a command read its options, then stop it. Raises CommandError for options that it does not have."""
    if command.program in LAUNCHERS:
        place = next((i for i, word in enumerate(command.words) if word in OURS), None)
        if place is None:
            raise CommandError(f"{command}: starts none of {', '.join(OURS)}")
        command = Command(command.words[place], command.words[place + 1 :], command.variables)
    elif command.program == "sbatch":
        place = next(i for i, word in enumerate(command.words) if (ROOT / word).is_file())
        command = Command("ns-train", command.words[place + 2 :], command.variables)  # of the script: RUN METHOD ...
    with _as_a_process(command, folder), _only_options():
        try:
            _call(command)
        except _ParsedError:
            return
    if "--help" not in command.words and command.program not in ("make", "pip"):
        raise CommandError(f"{command}: read no options")


def _call(command: Command) -> None:
    if command.program == "scenetok":
        scenetok(list(command.words))
    elif command.program in TOOLS:
        importlib.import_module(TOOLS[command.program]).entrypoint()
    elif command.program == "python" and not command.words[0].startswith("-"):
        runpy.run_path(str(ROOT / command.words[0]), run_name="__main__")
    elif command.program in CHECKS:
        CHECKS[command.program](command)
    else:
        raise CommandError(f"{command}: the tests cannot run this; mark the block `not run:`")


def _check_make(command: Command) -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    if unknown := set(command.words) - set(targets):
        raise CommandError(f"{command}: the Makefile has no {', '.join(unknown)}")


def _check_pip(command: Command) -> None:
    """Check that the extras of our package in a pip command exist."""
    extras = re.search(
        r"\[project.optional-dependencies\]\n(.*?)\n\n", (ROOT / "pyproject.toml").read_text(), re.DOTALL
    )
    known = re.findall(r"^(\w+) =", extras.group(1) if extras else "", re.MULTILINE)
    wanted = [name for word in command.words for name in re.findall(r"^(?:scenetok-ns|\.)\[(.*)\]$", word)]
    if unknown := {name for names in wanted for name in names.split(",")} - set(known):
        raise CommandError(f"{command}: there is no extra {', '.join(unknown)}")


CHECKS: dict[str, Callable[[Command], None]] = {"make": _check_make, "pip": _check_pip}
"""Programs that are only checked, because they would install something or run these tests."""


@contextmanager
def _as_a_process(command: Command, folder: Path) -> Iterator[None]:
    """Imitate a new process: with the command's folder, arguments and variables, without Nerfstudio's open writers."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # ns-render wants ffmpeg
    old = Path.cwd()
    os.chdir(folder)
    forget_writers()
    try:
        with (
            mock.patch.object(sys, "argv", [command.program, *_arguments(command)]),
            mock.patch.dict(os.environ, {"PATH": path, **command.variables}),
        ):
            yield
    except SystemExit as stop:
        if stop.code not in (None, 0):
            raise CommandError(f"{command}\n  ended with: {stop}") from stop
    finally:
        forget_writers()
        os.chdir(old)


def _arguments(command: Command) -> tuple[str, ...]:
    return command.words[1:] if command.program == "python" else command.words


def forget_writers() -> None:
    writer.EVENT_WRITERS.clear()
    writer.EVENT_STORAGE.clear()
    writer.GLOBAL_BUFFER.clear()


@contextmanager
def _only_options() -> Iterator[None]:
    """Make tyro and argparse stop a command once they have read its options."""
    read, parse = tyro.cli, argparse.ArgumentParser.parse_args

    def cli(target: Any, *args: Any, **kwargs: Any) -> None:
        if inspect.isfunction(target):
            target = functools.wraps(target)(lambda *args, **kwargs: None)
        read(target, *args, **kwargs)
        raise _ParsedError

    def parse_args(self: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> None:
        parse(self, *args, **kwargs)
        raise _ParsedError

    with (
        mock.patch.object(tyro, "cli", cli),
        mock.patch.object(argparse.ArgumentParser, "parse_args", parse_args),
    ):
        yield


def _run_viewer(command: Command) -> None:
    """Start a viewer, load its page, and stop it."""
    module = importlib.import_module(TOOLS["ns-viewer"])
    states: list[Any] = []

    class State(module.ViewerState):  # type: ignore[name-defined,misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            states.append(self)

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def sleep(seconds: float) -> None:
        # The tool has started and would only wait from here on.
        with urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=20) as page:
            if b"<html" not in page.read():
                raise CommandError(f"{command}: no page")
        raise KeyboardInterrupt

    try:
        with (
            mock.patch.object(module, "time", SimpleNamespace(sleep=sleep)),
            mock.patch.object(module, "ViewerState", State),
            mock.patch.object(sys, "argv", [*sys.argv, "--viewer.websocket-port", str(port)]),
        ):
            module.entrypoint()
    except KeyboardInterrupt:
        return
    finally:
        for state in states:
            state.viser_server.stop()
    raise CommandError(f"{command}: ended by itself")
