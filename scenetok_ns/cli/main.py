"""The `scenetok` command. Imports only the subcommand that runs, so that `scenetok --help` is quick."""

from __future__ import annotations

import importlib
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from traceback import print_exception
from typing import Any, NoReturn

from scenetok_ns.tools.errors import (
    FAILURE,
    INTERRUPTED,
    REPORT,
    TERMINATED,
    USAGE,
    UsageError,
    described,
    print_error,
    wants_traceback,
)
from scenetok_ns.tools.threads import let_idle_threads_sleep

COMMANDS = {
    "download": ("scenetok_ns.cli.download:download", "download a released model and create a run folder from it"),
    "import": ("scenetok_ns.cli.import_checkpoint:import_checkpoint", "create a run folder from a released checkpoint"),
    "open": (
        "scenetok_ns.cli.open_run:open_run",
        "create a run folder that shows another scene or has other settings",
    ),
    "encode": ("scenetok_ns.cli.encode:encode", "write the tokens of a scene, or of a whole split, to files"),
    "capture": (
        "scenetok_ns.cli.capture:capture",
        "find the cameras of photographs or a video; --open shows the scene",
    ),
    "export-dataset": (
        "scenetok_ns.cli.export_dataset:export_dataset",
        "render views of a scene as a data set for other methods of Nerfstudio",
    ),
    "generate": ("scenetok_ns.cli.generate:generate", "generate a scene from one to three photographs"),
    "render": ("scenetok_ns.cli.render:render", "render paths through scenes: videos, pictures, beside photographs"),
    "demo": ("scenetok_ns.cli.demo:demo", "create rooms; evaluate, render, generate and train once"),
    "demo-data": ("scenetok_ns.cli.demo_data:demo_data", "write procedurally made indoor scenes as a data set"),
    "train-tiny": ("scenetok_ns.cli.train_tiny:train_tiny", "train the embedded model from scratch, on a GPU"),
    "train-tiny-generator": (
        "scenetok_ns.cli.train_tiny_generator:train_tiny_generator",
        "train the embedded scene generator from scratch, on a GPU",
    ),
    "train-tiny-depth": (
        "scenetok_ns.cli.train_tiny_depth:train_tiny_depth",
        "train the embedded model's depth head, on a GPU",
    ),
    "export-mesh": ("scenetok_ns.cli.export_mesh:export_mesh", "fuse rendered views of a scene into a mesh"),
    "splat": ("scenetok_ns.cli.splat:splat", "fit 3D Gaussians to rendered views of a scene, as a PLY file"),
    "eval-index": ("scenetok_ns.cli.eval_index:eval_index", "make or check an evaluation index"),
    "report": ("scenetok_ns.cli.report:report", "write a page about an evaluation"),
    "evaluate": ("scenetok_ns.cli.evaluate:evaluate", "measure a run: metrics, seeds, sweeps"),
    "score": ("scenetok_ns.cli.score:score", "measure pictures of other methods by the same protocol"),
    "latents": ("scenetok_ns.cli.latents:latents", "encode a data set once with an autoencoder, for training"),
}
"""Name -> (module:function, what --help says). The function's parameters are the command's options (tyro)."""


LONGEST = 1500
"""Characters of an error that are printed."""
DASHED, OPTION = re.compile(r"-[^-\d.].*"), re.compile(r"--[^=]+")
"""Values that a parser would take for options, and options without a value."""


def usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {summary}" for name, (_, summary) in sorted(COMMANDS.items())]
    return "\n".join(
        ["usage: scenetok COMMAND [options]", "", *lines, "", "scenetok COMMAND --help lists its options."]
    )


def entrypoint(args: list[str] | None = None) -> None:
    """Run the subcommand that the first of `args` names (None: sys.argv).

    Ends in SystemExit with status 2 for wrong options, 1 for any other failure that is not a bug, 130 for Ctrl-C and
    143 for SIGTERM; each prints one line. Bugs keep their traceback.
    """
    let_idle_threads_sleep()  # before torch is imported
    name, *rest = (sys.argv[1:] if args is None else args) or ["--help"]
    if name in ("-h", "--help"):
        try:
            print(usage(), flush=True)
        except BrokenPipeError:
            _stop_reading(None)
        return
    if name not in COMMANDS:
        _stop(None, f"unknown command {name!r}; known: {', '.join(sorted(COMMANDS))}", USAGE)
    try:
        with _terminable():
            _run(name, rest)
    except KeyboardInterrupt:
        _stop(name, "interrupted", INTERRUPTED)
    except _Terminated:
        _stop(name, "terminated", TERMINATED)
    except BrokenPipeError:
        _stop_reading(name)
    except Exception as error:
        line = described(error)
        if line is None or wants_traceback():
            print_exception(error)
        if line is None:
            line = f"{type(error).__name__}: {REPORT}"
        _stop(name, line, USAGE if isinstance(error, UsageError) else FAILURE)


def _run(name: str, args: list[str]) -> None:
    import tyro

    module, function = COMMANDS[name][0].split(":")
    command = getattr(importlib.import_module(module), function)
    with warnings.catch_warnings():
        # Libraries warn about each other when they are imported; the user cannot change that.
        warnings.simplefilter("ignore", FutureWarning)
        tyro.cli(command, prog=f"scenetok {name}", args=attached(args))


def attached(args: list[str]) -> list[str]:
    """Options with a value that begins with one dash, `--output -x`, written as `--output=-x`.

    The parser would take such a value for an option; negative numbers it knows.
    """
    found: list[str] = []
    for word in args:
        is_value = DASHED.fullmatch(word) is not None and word != "-h"
        if is_value and found and OPTION.fullmatch(found[-1]):
            found[-1] += f"={word}"
        else:
            found.append(word)
    return found


class _Terminated(BaseException):
    """SIGTERM has come; what is unfinished is removed on the way out, as after Ctrl-C."""


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM raise _Terminated, unless someone else handles it."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def terminate(*_: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one ends the process at once
        raise _Terminated

    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _stop_reading(name: str | None) -> NoReturn:
    """End since nobody reads the output any more, as in `scenetok ... | head`."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter complains when it ends
    _stop(name, "the program that reads the output has ended", FAILURE)


class CommandFailed(SystemExit):
    """Ends the process with an exit code; its text is the line that was printed."""

    def __init__(self, line: str, status: int) -> None:
        super().__init__(line)
        self.code = status


def _stop(name: str | None, line: str, status: int) -> NoReturn:
    text = f"scenetok{f' {name}' if name else ''}: {line}"
    if len(text) > LONGEST:  # a name of thousands of characters
        text = f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"
    print_error(text)
    raise CommandFailed(text, status) from None
