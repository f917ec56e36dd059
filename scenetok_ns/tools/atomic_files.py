"""Write files and folders that are either complete or absent, and remove what killed processes leave behind.

Unfinished files and folders are named `.NAME.N.PID@MACHINE.part` and lie beside their final path. Before a process
first writes to a folder, it removes what killed processes have left there; `remove_leftovers` does so on demand.
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
"""Time without changes after which an unfinished file or folder of another machine counts as left behind."""
REPLACED, JOURNAL = ".replaced", ".moves.json"
"""Entries in an unfinished folder of `atomic_update`: the files that it has replaced, and the list of its moves."""

_numbers = count()
_live: set[str] = set()
"""Names of unfinished files and folders of this process. The PID does not tell: an earlier process may have had it."""
_cleaned: set[Path] = set()
"""Folders in which this process has removed leftovers."""


class CannotWriteError(OSError):
    """A file or folder could not be written, for the reason that `error` gives."""

    def __init__(self, path: Path, error: OSError) -> None:
        self.reason: object = error.reason if isinstance(error, CannotWriteError) else error.strerror or error
        super().__init__(f"cannot write {path}: {self.reason}; no partial copy is left")


# --- Files ---


@contextmanager
def atomic_file(path: Path, scratch: Path | None = None) -> Iterator[BinaryIO]:
    """Open a file that gets the name `path` once the body has finished. Even a power cut leaves all of it or nothing.

    Args:
        path: Final path. Its folder is created; an existing file is replaced.
        scratch: Another folder of the same file system for the unfinished file. Default: the folder of `path`.

    Yields:
        The unfinished file, opened for writing bytes.

    Raises:
        CannotWriteError: The body or the renaming failed with an OSError. An earlier file at `path` is still there.
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
    """Call `torch.save`, and raise the file's own errors.

    torch.save itself turns a full disk, or an interrupt, into a RuntimeError about the position in the file.

    Args:
        content: Object to save.
        file: File opened for writing bytes.
        progress: Called with the number of bytes of each piece written.
    """
    import torch  # takes two seconds, which callers that write other files should not wait

    counted = _Counted(file.write, progress)
    try:
        torch.save(content, counted)  # type: ignore[arg-type]
    except RuntimeError as error:
        raise counted.error or error from None


class _Counted:
    """A file for torch.save that reports progress and remembers the error that stopped it."""

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
        """Do nothing: torch.save requires this method, and the caller flushes the file at the end."""


# --- Folders ---


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Create a folder to fill. It gets the name `folder` once the body has finished, and is removed if the body fails.

    Yields:
        Path of the unfinished folder.

    Raises:
        FileExistsError: `folder` exists already and is not an empty folder.
        CannotWriteError: Something could not be written; the error names `folder` and the reason.
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
    if error.filename is None:  # the error is about an open file and does not say which
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
    return error.errno is not None and Path(os.fsdecode(error.filename)).is_relative_to(unfinished)


def check_absent(folder: Path) -> None:
    """Raise FileExistsError unless `folder` can be created: it must be absent or an empty folder."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists; choose another --output, or remove it")


@contextmanager
def atomic_update(
    folder: Path, name: str, plan: Callable[[Path], tuple[Sequence[str], Sequence[str]]]
) -> Iterator[Path]:
    """Create a folder to fill with files. Once the body has finished, all of them move into `folder`, or none.

    Existing files of the same names are replaced. If the process is killed between two moves, `remove_leftovers`
    completes them.

    Args:
        folder: Folder to update. It is created.
        name: Part of the name of the unfinished folder.
        plan: Called with the filled folder. Returns the names in it that are moved, in order, and the names of files
            or folders in `folder` that are removed in the same step.

    Yields:
        Path of the unfinished folder.
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
    """Make the moves of the journal that are still to be made; if one fails, undo them."""
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
    """Remove what killed processes have left unfinished in a folder and, if `nested`, in its subfolders.

    Leftovers of this machine are recognised by their PID, which no longer runs; leftovers of other machines by their
    age. If a process was killed while it moved files to their places, the remaining files are moved.
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
    """Remove old folders in which killed processes of earlier versions were preparing `target`."""
    ending = re.compile(re.escape(f".{target.name}") + EARLIER_ENDING)
    for path in target.parent.glob(".*") if target.parent.is_dir() else ():
        with suppress(FileNotFoundError):
            if ending.fullmatch(path.name) and path.is_dir() and _is_old(path):
                _discard(path)


@contextmanager
def _unfinished(path: Path, scratch: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path for the file or folder that becomes `path`.

    If something is still there at the end, it is removed, unless it holds replaced files that could not be put back.
    """
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
