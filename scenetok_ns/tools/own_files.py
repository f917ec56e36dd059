"""Enforce the rule about existing files: a command replaces only files that it wrote itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def check_replaceable(path: Path, is_own: Callable[[Path], bool], kind: str) -> None:
    """Raise FileExistsError if `path` exists and is not a file of the kind that the command writes.

    Args:
        path: File to write.
        is_own: Tells whether a file is of the kind that the command writes. ValueError or OSError means that it is not.
        kind: Name of that kind for the message, with its article.
    """
    if path.is_dir():
        raise FileExistsError(f"--output: {path} is a folder; give the name of a file")
    if path.exists() or path.is_symlink():
        try:
            own = is_own(path)
        except (ValueError, OSError):
            own = False
        if not own:
            raise FileExistsError(f"--output: {path} exists and is not {kind}; choose another name, or remove it")


def check_own_folder(folder: Path, mark: str, is_own: Callable[[Path], bool], kind: str) -> None:
    """Raise OSError if `folder` exists, is not empty, and is not a folder of the kind that the command writes.

    Args:
        folder: Folder to fill.
        mark: Name of the file that the command writes there first.
        is_own: Tells whether a file of that name comes from the command. ValueError or OSError means that it does not.
        kind: Contents of the command's folders, in words for the message.
    """
    if folder.is_symlink() and not folder.exists():
        raise FileNotFoundError(f"--output: {folder} is a broken link; choose another folder")
    if not folder.exists():
        return
    if not folder.is_dir():
        raise NotADirectoryError(f"--output: {folder} is a file; give the name of a folder")
    if not any(folder.iterdir()):
        return
    try:
        own = (folder / mark).is_file() and is_own(folder / mark)
    except (ValueError, OSError):
        own = False
    if not own:
        raise FileExistsError(f"--output: {folder} holds something other than {kind}; choose another folder")


def begins_with(path: Path, marks: tuple[bytes, ...], count: int = 4096) -> bool:
    """Whether the first `count` bytes of a file contain all of `marks`."""
    with path.open("rb") as file:
        head = file.read(count)
    return all(mark in head for mark in marks)
