"""Files that are complete or absent, and the removal of what killed processes leave."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch

TEMPORARY = ".part"
"""Suffix of unfinished files. What a killed process leaves is removed by `remove_leftovers`."""
LEFTOVER_AGE_S = 3600.0
"""Age from which an unfinished file of another machine counts as left behind. Writing one takes seconds."""


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file that is either complete or absent, also after a kill or a power cut.

    Raises OSError that names `path` and the reason; an earlier file of that name is then still there.
    """
    temporary = path.with_name(f".{path.name}.{this_process()}{TEMPORARY}")  # no two processes share one
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise OSError(f"cannot write {path}: {error.strerror or error}; nothing of it is left") from error
        raise


def save_torch(content: Any, file: BinaryIO, progress: Callable[[int], None] = lambda count: None) -> None:
    """`torch.save`, with errors of the file as they are; `progress` gets the number of bytes of each piece written.

    Left alone, torch turns a full disk, or an interrupt, into a RuntimeError about the position in the file.
    """
    counted = _Counted(file.write, progress)
    try:
        torch.save(content, counted)  # type: ignore[arg-type]
    except RuntimeError as error:
        raise counted.error or error from None


class _Counted:
    """A file to write to, for torch.save."""

    def __init__(self, write: Callable[[Any], int], progress: Callable[[int], None]) -> None:
        self._write, self._progress = write, progress
        self.error: BaseException | None = None

    def write(self, data: Any) -> int:
        if self.error is not None:
            raise self.error
        try:
            count = self._write(data)
            self._progress(count)
        except BaseException as error:
            self.error = error
            raise
        return count

    def flush(self) -> None:
        """torch.save calls this; the file is flushed when all is written."""


def remove_leftovers(root: Path) -> None:
    """Remove unfinished files of processes that are gone: on this machine by process number, on others by age."""
    for path in root.rglob(f".*{TEMPORARY}"):
        owner = path.name[: -len(TEMPORARY)].rsplit(".", 1)[1]
        try:
            if is_gone(owner, path.stat().st_mtime, LEFTOVER_AGE_S):
                path.unlink()
        except FileNotFoundError:
            continue  # finished, or removed by another process


def is_gone(process: str, last_sign: float, patience_s: float) -> bool:
    """Whether a process (`this_process` of its own) has ended: on this machine by its number, on others if the last
    sign of it, a time of modification, is older than `patience_s`."""
    number, _, node = process.partition("@")
    if node == this_process().partition("@")[2]:
        return not _runs(int(number))
    return time.time() - last_sign > patience_s


def this_process() -> str:
    """Number and machine, for the names of what is unfinished."""
    return f"{os.getpid()}@{platform.node().replace('.', '-')}"


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
