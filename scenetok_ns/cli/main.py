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
from itertools import takewhile
from traceback import print_exception
from typing import Any, NoReturn

from scenetok_ns import __version__
from scenetok_ns.cli.commands import COMMANDS, examples, usage
from scenetok_ns.cli.help_text import tidied
from scenetok_ns.cli.old_names import current_command, current_options
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
from scenetok_ns.tools.quiet import quiet_printing
from scenetok_ns.tools.suggestions import did_you_mean
from scenetok_ns.tools.threads import let_idle_threads_sleep

QUIET = "--quiet"
"""Option of every command: prints nothing but errors."""
LONGEST = 1500
"""Maximum number of characters of an error that are printed."""
DASHED, OPTION = re.compile(r"-[^-\d.].*"), re.compile(r"--[^=]+")
"""Values that a parser would mistake for options, and options that are written without a value."""


def entrypoint(args: list[str] | None = None) -> None:
    """Run a subcommand.

    Args:
        args: Words of the command line, the subcommand's name first. None: those of sys.argv.

    Raises:
        SystemExit: The command failed, with status 2 for wrong options, 130 for Ctrl-C, 143 for SIGTERM, and 1 for
            any other failure. One line is printed, for a bug also the traceback.
    """
    let_idle_threads_sleep()  # before torch is imported
    words = list(sys.argv[1:] if args is None else args)
    quiet = QUIET in words
    name, *rest = [word for word in words if word != QUIET] or ["--help"]
    if name in ("-h", "--help", "--version"):
        try:
            print(f"scenetok {__version__}" if name == "--version" else usage(), flush=True)
        except BrokenPipeError:
            _stop_reading(None)
        return
    name, note = current_command(name)
    if name not in COMMANDS:
        known = ", ".join(sorted(COMMANDS))
        _stop(None, f"unknown command {name!r}{did_you_mean(name, COMMANDS)}; known: {known}", USAGE)
    rest, notes = current_options(name, rest)
    try:
        with _terminable(), quiet_printing(quiet):
            for line in [note, *notes] if not quiet else ():
                if line is not None:
                    print_error(f"scenetok {name}: {line}")
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

    module, function = COMMANDS[name].function.split(":")
    command = getattr(importlib.import_module(module), function)
    if name == "generate":
        check_images(args)
    with warnings.catch_warnings():
        # Libraries warn about each other when they are imported; the user cannot change that.
        warnings.simplefilter("ignore", FutureWarning)
        if not {"-h", "--help"} & set(args):
            tyro.cli(command, prog=f"scenetok {name}", args=attached(args))
            return
        try:
            with tidied():
                tyro.cli(command, prog=f"scenetok {name}", args=attached(args))
        finally:
            print(examples(name), flush=True)


def check_images(args: list[str]) -> None:
    """Raise UsageError if --image has several values, which the parser would call unrecognized options."""
    for place, word in enumerate(args):
        if word == "--image":
            values = list(takewhile(lambda value: not value.startswith("-"), args[place + 1 :]))
            if len(values) > 1:
                from scenetok_ns.data.capture.photographs import FEWEST, FROM_FEW

                advice = FROM_FEW if len(values) < FEWEST else "for more, run scenetok capture FOLDER"
                raise UsageError(f"--image takes one photograph, got {len(values)}; {advice}")


def attached(args: list[str]) -> list[str]:
    """Join an option and a value that begins with a dash: `--output -x` becomes `--output=-x`.

    The parser would mistake such a value for an option. It recognises negative numbers by itself.
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
    """Raised on SIGTERM, so that unfinished files are removed on the way out, as after Ctrl-C."""


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM raise _Terminated, unless it has another handler already."""
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
    """End the command because nobody reads its output any more, as in `scenetok ... | head`."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter complains when it ends
    _stop(name, "the program that reads the output has ended", FAILURE)


class CommandFailed(SystemExit):
    """Ends the process with an exit code; its text is the line that was printed."""

    def __init__(self, line: str, status: int) -> None:
        super().__init__(line)
        self.code = status


def _stop(name: str | None, line: str, status: int) -> NoReturn:
    text = f"scenetok{f' {name}' if name else ''}: {line}"
    if len(text) > LONGEST:  # such as one with a name of thousands of characters
        text = f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"
    print_error(text)
    raise CommandFailed(text, status) from None
