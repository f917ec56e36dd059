"""Files and folders that are complete or absent, and the removal of what killed processes leave.

Unfinished things are called `.NAME.N.PID@MACHINE.part` and lie beside the place they are for. A process removes what
killed ones have left in a folder before it first writes there, and `remove_leftovers` does so on demand.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

UNFINISHED = re.compile(r"\..+\.(?P<pid>\d+)@(?P<machine>[^@.]+)\.part")
"""Names of unfinished files and folders."""
EARLIER = re.compile(r"\.render-(?P<pid>\d+)@(?P<machine>[^@.]+)-[a-z0-9_]{8}|\..+\.ckpt\.\d+\.unfinished")
"""Names that earlier versions gave to unfinished renders and checkpoints."""
EARLIER_ENDING = r"(\.part)?-[a-z0-9_]{8}"
"""Suffix that earlier versions added to `.NAME` while they filled the folder NAME."""
LEFTOVER_AGE_S = 24 * 3600.0
"""Age from which an unfinished thing of another machine, in which nothing changes, counts as left behind."""
REPLACED, JOURNAL = ".replaced", ".moves.json"
"""Entries of an unfinished folder of `atomic_update`: the files that it replaces, and the moves that remain."""

_numbers = count()
_live: set[str] = set()
"""Names of unfinished things that this process works on: an earlier process may have had its number."""
_cleaned: set[Path] = set()
"""Folders in which this process has removed leftovers."""


class CannotWriteError(OSError):
    """A file or folder could not be written, for the reason that `error` gives."""

    def __init__(self, path: Path, error: OSError) -> None:
        self.reason: object = error.reason if isinstance(error, CannotWriteError) else error.strerror or error
        super().__init__(f"cannot write {path}: {self.reason}; nothing of it is left")


# --- Files ---


@contextmanager
def atomic_file(path: Path, scratch: Path | None = None) -> Iterator[BinaryIO]:
    """A file to write to, which gets the name `path` once the body has finished, also in a power cut all or nothing.

    scratch: another folder of the same file system for the unfinished file; default: that of `path`.
    Raises OSError that names `path` and the reason; an earlier file of that name is then still there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _unfinished(path, scratch) as unfinished:
            with unfinished.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
    except OSError as error:
        raise CannotWriteError(path, error) from error


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file that is either complete or absent; see `atomic_file`."""
    with atomic_file(path) as file:
        file.write(data)


def save_torch(content: Any, file: BinaryIO, progress: Callable[[int], None] = lambda count: None) -> None:
    """`torch.save`, with errors of the file as they are; `progress` gets the number of bytes of each piece written.

    Otherwise torch turns a full disk, or an interrupt, into a RuntimeError about the position in the file.
    """
    import torch  # two seconds, which those who write other files need not wait for

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


# --- Folders ---


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, which gets the name `folder` once the body has finished, and is removed if it fails.

    Raises:
        FileExistsError: `folder` exists already and is not an empty folder.
        OSError: something could not be written; the error names `folder` and the reason.
    """
    folder = folder.absolute()
    check_absent(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_earlier_leftovers(folder)
    with _unfinished(folder) as unfinished:
        try:
            unfinished.mkdir()
            yield unfinished
            os.replace(unfinished, folder)
        except OSError as error:
            if isinstance(error, CannotWriteError) or _is_about(error, unfinished):
                raise CannotWriteError(folder, error) from error
            raise


def _is_about(error: OSError, unfinished: Path) -> bool:
    """Whether an error is about writing to a folder, rather than about reading what goes into it."""
    if error.filename is None:  # of a file that is open: which one is not known
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
    return error.errno is not None and Path(os.fsdecode(error.filename)).is_relative_to(unfinished)


def check_absent(folder: Path) -> None:
    """Raise FileExistsError unless `folder` can be made: it does not exist, or is an empty folder."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists; choose another --output, or remove it")


@contextmanager
def atomic_update(
    folder: Path, name: str, plan: Callable[[Path], tuple[Sequence[str], Sequence[str]]]
) -> Iterator[Path]:
    """A folder to fill with files that move into `folder` once the body has finished: all of them or none.

    Files of their names are replaced. If the process is killed between two moves, `remove_leftovers` makes the rest.

    Args:
        name: Part of the name of the unfinished folder.
        plan: Gets the filled folder. Returns names in it in the order in which they are moved, and names of files or
            folders in `folder` that are removed with the same step.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _unfinished(folder / name) as unfinished:
        (unfinished / REPLACED).mkdir(parents=True)
        yield unfinished
        placed, removed = plan(unfinished)
        journal = json.dumps({"placed": list(placed), "removed": list(removed)})
        write_atomically(unfinished / JOURNAL, journal.encode())
        _make_moves(unfinished)


def _make_moves(unfinished: Path) -> None:
    """Make the moves of the journal that are not made yet, or none of them."""
    journal = json.loads((unfinished / JOURNAL).read_text())
    folder, replaced = unfinished.parent, unfinished / REPLACED
    waiting = [name for name in journal["placed"] if (unfinished / name).exists()]
    leaving = [name for name in (*journal["removed"], *waiting) if (folder / name).exists()]
    moves = [(folder / name, replaced / name) for name in leaving]
    moves += [(unfinished / name, folder / name) for name in waiting]
    try:
        for source, target in moves:
            os.replace(source, target)
    except BaseException:
        _undo(moves)
        raise


def _undo(moves: Sequence[tuple[Path, Path]]) -> None:
    for source, target in reversed(moves):
        if target.exists() and not source.exists():
            os.replace(target, source)


# --- What is unfinished ---


def remove_leftovers(folder: Path, *, nested: bool = True) -> None:
    """Remove what killed processes have left unfinished in a folder and, if `nested`, in those below it.

    A process of this machine is looked up by its number; things of other machines go by their age. Where a killed
    process was moving files to their places, the rest of them are moved.
    """
    if not folder.is_dir():
        return
    for path in list(folder.rglob(".*") if nested else folder.glob(".*")):
        with suppress(FileNotFoundError):  # finished, or removed by another process
            if _is_left_behind(path):
                if (path / JOURNAL).exists():
                    _make_moves(path)
                _discard(path)


def _is_left_behind(path: Path) -> bool:
    owner = UNFINISHED.fullmatch(path.name) or EARLIER.fullmatch(path.name)
    if owner is None:
        return False
    found = owner.groupdict()
    if found.get("machine") != _machine():
        return _is_old(path)
    number = int(found["pid"])
    return path.name not in _live if number == os.getpid() else not _runs(number)


def _is_old(path: Path) -> bool:
    return time.time() - _last_change(path) > LEFTOVER_AGE_S


def _remove_earlier_leftovers(target: Path) -> None:
    """Remove folders that killed processes of earlier versions were filling to become `target`, by their age."""
    ending = re.compile(re.escape(f".{target.name}") + EARLIER_ENDING)
    for path in target.parent.glob(".*") if target.parent.is_dir() else ():
        with suppress(FileNotFoundError):
            if ending.fullmatch(path.name) and path.is_dir() and _is_old(path):
                _discard(path)


@contextmanager
def _unfinished(path: Path, scratch: Path | None = None) -> Iterator[Path]:
    """A name for what becomes `path`. What still has it in the end is removed, unless replaced files are in it that
    could not be put back."""
    folder = (scratch or path.parent).absolute()
    if folder not in _cleaned:
        _cleaned.add(folder)
        remove_leftovers(folder, nested=False)
    name = f".{path.name}.{next(_numbers)}.{os.getpid()}@{_machine()}.part"
    unfinished = folder / name
    _live.add(name)
    try:
        yield unfinished
    except BaseException:
        if not any((unfinished / REPLACED).glob("*")):
            _discard(unfinished)
        raise
    else:
        _discard(unfinished)
    finally:
        _live.discard(name)


def _discard(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _last_change(path: Path) -> float:
    return max(file.stat().st_mtime for file in (path, *path.rglob("*")))


def _machine() -> str:
    return platform.node().replace(".", "-").replace("@", "-") or "unnamed"


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
