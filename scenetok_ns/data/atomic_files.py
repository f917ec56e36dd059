"""Files that are complete or absent, and the removal of what killed processes leave."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

TEMPORARY = ".part"
"""Suffix of unfinished files. What a killed process leaves is removed by `remove_leftovers`."""
LEFTOVER_AGE_S = 3600.0
"""Age from which an unfinished file of another machine counts as left behind. Writing one takes seconds."""


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file that is either complete or absent, also after a kill or a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{_this_process()}{TEMPORARY}")  # no two processes share one
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def remove_leftovers(root: Path) -> None:
    """Remove unfinished files of processes that are gone: on this machine by process number, on others by age."""
    node = _this_process().split("@")[1]
    for path in root.rglob(f".*{TEMPORARY}"):
        owner = path.name[: -len(TEMPORARY)].rsplit(".", 1)[1]
        pid, _, other = owner.partition("@")
        try:
            gone = not _runs(int(pid)) if other == node else time.time() - path.stat().st_mtime > LEFTOVER_AGE_S
            if gone:
                path.unlink()
        except FileNotFoundError:
            continue  # finished, or removed by another process


def _this_process() -> str:
    return f"{os.getpid()}@{platform.node().replace('.', '-')}"


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
