"""Run a command on a broken input in this process, and judge how it ends."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from scenetok_ns.bridge.tool_compat import shorten_errors
from scenetok_ns.cli.main import entrypoint
from scenetok_ns.tools.safe_config import ConfigLoader

LIMIT_S = 60
"""Time after which a command counts as hanging."""
LONGEST = 700
"""Maximum length of a line that a person still reads."""

BIN = Path(sys.executable).parent
"""Folder of ffmpeg, which ns-render needs on PATH."""
PARSER = ("Error parsing", "nvalid choice", "Unrecognized options", "Required options", "Missing")
"""Text in tyro's messages about options."""

CLEAR, UNCLEAR, TRACEBACK, SILENT, HANG = "refused clearly", "refused unclearly", "traceback", "silent", "hang"


@dataclass(frozen=True)
class Fault:
    """A broken input, and words that the error must contain."""

    entry: str
    """Name of the command or tool."""
    kind: str
    action: Callable[[], Any]
    things: tuple[str, ...]
    """Words one of which the line must contain: a file, an option or a setting."""
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    fault: Fault
    outcome: str
    line: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.outcome}: {self.fault.entry}, {self.fault.kind}: {self.line[-400:]}"


class _TooLong(BaseException):
    """Raised at the time limit. It is not an Exception, so no error handling catches it."""


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise _TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def command(*words: object) -> Callable[[], None]:
    """Create the call of a `scenetok` command, with its words as a user types them."""
    return lambda: entrypoint([str(word) for word in words])


@contextlib.contextmanager
def parsing_once() -> Iterator[None]:
    """Parse each text of a config.yml once. Most faults open one of a few runs, and parsing takes a third of the time.

    Refused files are parsed each time, and objects are constructed each time.
    """
    parse, parsed = ConfigLoader.get_single_node, {}

    def get_single_node(self: ConfigLoader) -> Any:
        text = self.buffer
        if text not in parsed:
            parsed[text] = parse(self)
        return parsed[text]

    with mock.patch.object(ConfigLoader, "get_single_node", get_single_node):
        yield


def judge(fault: Fault) -> Verdict:
    """Run a command and judge its end. Errors of Nerfstudio's tools go through the exception hook, as in a process."""
    out, err = io.StringIO(), io.StringIO()
    begin, code = time.perf_counter(), 0
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.dict(os.environ, {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", **fault.environment}),
        mock.patch.object(sys, "excepthook", sys.__excepthook__),
    ):
        shorten_errors()
        try:
            with _time_limit():
                fault.action()
        except _TooLong:
            return Verdict(fault, HANG, "", LIMIT_S)
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
            if isinstance(stop.code, str):
                print(stop.code, file=sys.stderr)
        except BaseException as error:
            code = 1
            sys.excepthook(type(error), error, error.__traceback__)
    text = err.getvalue()
    return Verdict(fault, _outcome(fault, code, text, out.getvalue()), _line(text), time.perf_counter() - begin)


def _line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.startswith(("scenetok", "error: "))]
    return lines[-1] if lines else " ".join(text.split())[-LONGEST:]


def _outcome(fault: Fault, code: int, text: str, printed: str) -> str:
    if "Traceback (most recent call last)" in text + printed:
        return TRACEBACK
    if code == 0:
        return SILENT
    line = _line(text)
    is_ours = line.startswith(("scenetok", "error: ")) and "may be a bug" not in line
    if code == 2 and not is_ours:  # the parser's own box, which repeats the command's name
        is_ours, line = any(mark in text for mark in PARSER), text
    named = not fault.things or any(thing in line for thing in fault.things)
    return CLEAR if is_ours and named and len(line) < 3 * LONGEST else UNCLEAR


def figures(verdicts: list[Verdict]) -> str:
    """Format a table of entry points and outcomes, with the sum."""
    kinds = (CLEAR, UNCLEAR, TRACEBACK, SILENT, HANG)
    counts = Counter((verdict.fault.entry, verdict.outcome) for verdict in verdicts)
    entries = sorted({verdict.fault.entry for verdict in verdicts})
    rows = [[entry, *(str(counts[entry, kind]) for kind in kinds)] for entry in entries]
    rows.append([f"{len(verdicts)} inputs", *(str(sum(v.outcome == kind for v in verdicts)) for kind in kinds)])
    width = max(len(row[0]) for row in rows)
    lines = [f"{'':{width}}  " + "  ".join(kinds)]
    lines += [
        f"{row[0]:{width}}  " + "  ".join(f"{n:>{len(k)}}" for n, k in zip(row[1:], kinds, strict=True)) for row in rows
    ]
    return "\n".join(lines)


def copied(file: Path, folder: Path) -> Path:
    """Copy a file to a new folder, under its own name."""
    folder.mkdir(parents=True)
    target = folder / file.name
    target.write_bytes(file.read_bytes())
    return target
