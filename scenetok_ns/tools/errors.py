"""Recognise errors about a user's input, and print one line for them.

All other errors are bugs, and keep their traceback.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import FrameType, TracebackType

TRACEBACK = "SCENETOK_TRACEBACK"
"""Environment variable; if it is set, every error also shows its traceback."""
USAGE, FAILURE, INTERRUPTED, TERMINATED = 2, 1, 130, 143
"""Exit codes of commands: wrong options, everything else that failed, Ctrl-C, SIGTERM."""
REPORT = "this is a bug in scenetok_ns: please report it with the traceback above"

PACKAGE = Path(__file__).resolve().parents[1]


class UsageError(ValueError):
    """Options of a command are out of range or exclude each other; the message is one line that names their flags."""


def wants_traceback() -> bool:
    """Whether the environment asks for tracebacks of all errors."""
    return TRACEBACK in os.environ


def described(error: BaseException) -> str | None:
    """Describe an error that is about the input or the machine; None for a bug.

    Messages of errors that this package raises about its input are returned unchanged. Errors of libraries are
    described if their type shows that the input or the machine is the reason: files that cannot be read or written,
    not enough memory, missing packages.
    """
    if is_complaint(error):
        return str(error)
    if isinstance(error, OSError):
        return _file_problem(error)
    if isinstance(error, ImportError):
        return str(error)
    if isinstance(error, MemoryError) or _is_named(error, "torch", "OutOfMemoryError"):
        reason = first_line(error)
        return f"not enough memory ({reason}): use fewer or smaller pictures, or a GPU option such as --low-vram"
    if _is_named(error, "PIL", "DecompressionBombError"):
        return f"an image is too large to be read ({first_line(error)}): make it smaller"
    if isinstance(error, ValueError):
        return f"{first_line(error)} (this may be a bug: {TRACEBACK}=1 shows where it comes from)"
    return None


def is_complaint(error: BaseException) -> bool:
    """Whether this package itself raised `error` about its input."""
    return isinstance(error, (ValueError, OSError, ImportError)) and is_inside(_innermost(error.__traceback__))


def is_inside(file: str | None) -> bool:
    """Whether a source file belongs to this package."""
    return file is not None and PACKAGE in Path(file).parents


def frames_of(traceback: TracebackType | None) -> list[FrameType]:
    """The frames from where an error was caught to where it was raised."""
    frames = []
    while traceback is not None:
        frames.append(traceback.tb_frame)
        traceback = traceback.tb_next
    return frames


def _innermost(traceback: TracebackType | None) -> str | None:
    frames = frames_of(traceback)
    return frames[-1].f_code.co_filename if frames else None


def _file_problem(error: OSError) -> str:
    if error.strerror is None:
        return first_line(error)
    named = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, (str, bytes)) else ""
    return f"{named}{error.strerror}; check the path, its permissions and the space on the disk"


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its class if it has no message."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _is_named(error: BaseException, package: str, name: str) -> bool:
    """Whether `error` is an instance of a library's class. The library is not imported for this."""
    return any(kind.__name__ == name and kind.__module__.split(".")[0] == package for kind in type(error).__mro__)


def print_error(line: str) -> None:
    """Print an error for the user, on standard error."""
    print(line, file=sys.stderr)
