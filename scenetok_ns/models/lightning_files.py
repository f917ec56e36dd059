"""Read Lightning checkpoints without running any code that they name."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scenetok_ns.models.weight_files import CheckpointError, listed
from scenetok_ns.tools.downloads import looks_like_text

RUNS_CODE = {
    "os", "posix", "nt", "sys", "subprocess", "shutil", "socket", "importlib", "runpy", "ctypes", "code", "codeop",
    "pty", "webbrowser", "pickle", "_pickle", "marshal", "shelve", "multiprocessing", "pip", "pdb",
}  # fmt: skip
"""Packages that no training record has a reason to name. Nothing in them would be called, but a file that names them is
not a model."""
PLAIN_TYPES = {
    "dict", "list", "tuple", "str", "int", "float", "bool", "complex", "set", "frozenset", "bytes", "bytearray",
    "object", "slice", "range",
}  # fmt: skip
"""Names of `builtins` that records may contain. Others, such as its functions, can open files and run code."""


class _Inert:
    """Replaces an object of the trainer's records. Accepts any arguments and state, and stores nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __new__(cls, *args: Any, **kwargs: Any) -> _Inert:
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None: ...


class _InertDict:
    """Replaces a subclass of dict, because torch fills only dicts and OrderedDicts."""

    def __new__(cls, *args: Any, **kwargs: Any) -> OrderedDict:  # type: ignore[misc]
        return OrderedDict()


class _InertList:
    """Replaces a subclass of list, or a deque."""

    def __new__(cls, *args: Any, **kwargs: Any) -> list:  # type: ignore[misc]
        return []


_STANDS_FOR = "stand-in of "


def _stand_in(kind: type, name: str) -> type:
    """Create a separate class for each name, so that an error of torch shows which name it is about."""
    return type(_STANDS_FOR + name, (kind,), {})


def read_lightning(path: Path) -> dict[str, Tensor]:
    """Read the `state_dict` of a Lightning checkpoint. It is memory-mapped: a tensor is read when it is used.

    Besides tensors, such a file holds records of the trainer, which name classes of other packages. Inert classes
    replace all of them; nothing in these packages is imported or called.

    Raises CheckpointError for a file that is truncated, is not a checkpoint, or names something that can run code.
    """
    names = record_names(path)
    if refused := [name for name in names if _runs_code(name)]:
        raise CheckpointError(
            f"{path}: refused, its pickle names {', '.join(refused)}, which no training record holds; do not load this "
            "file with other tools unless you trust where it comes from"
        )
    kinds: dict[str, type] = dict.fromkeys(names, _Inert)
    while True:
        stand_ins: list[Any] = [(_stand_in(kind, name), name) for name, kind in kinds.items()]
        try:
            with torch.serialization.safe_globals(stand_ins):
                content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            break
        except Exception as error:  # damaged bytes can raise anything
            # Only the error shows whether a name stands for a dict or a list, which torch accepts only as such.
            about = re.search(rf"{_STANDS_FOR}([\w.]+)", str(error))
            if about is None or kinds.get(about[1]) is not _Inert:
                raise _unreadable(path, error) from error
            kinds[about[1]] = _InertList if "append" in str(error) else _InertDict
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict):
        found = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(f"{path}: expected a Lightning checkpoint with the entry 'state_dict', found {found}")
    wrong = [str(key) for key, value in state.items() if not isinstance(key, str) or not isinstance(value, Tensor)]
    if wrong:
        raise CheckpointError(f"{path}: state_dict entries that are not tensors: {listed(wrong)}")
    return dict(state)


def record_names(path: Path) -> list[str]:
    """Names in the pickle of a checkpoint that torch does not allow by itself: the classes of the trainer's records.

    Raises CheckpointError for a file that is truncated or not a checkpoint.
    """
    _check_is_zip(path)
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception as error:  # damaged bytes can raise anything
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return CheckpointError(f"{path}: not readable as a PyTorch checkpoint ({reason})")


def _runs_code(name: str) -> bool:
    package, _, attribute = name.partition(".")
    return package in RUNS_CODE or (package == "builtins" and attribute not in PLAIN_TYPES)


def check_crc(path: Path, progress: Callable[[int], None] = lambda count: None) -> None:
    """Raise CheckpointError if a part of a checkpoint does not have the checksum that was written with it.

    Reads the whole file, and calls `progress` with the number of bytes of each piece.
    """
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            try:
                with archive.open(entry) as part:
                    while piece := part.read(1 << 22):
                        progress(len(piece))
            except (zipfile.BadZipFile, zlib.error, EOFError) as error:
                raise CheckpointError(
                    f"{path}: damaged, {entry.filename} has a wrong checksum; download it again"
                ) from error


def _check_is_zip(path: Path) -> None:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    if zipfile.is_zipfile(path):
        return
    try:
        with path.open("rb") as file:
            beginning = file.read(64)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error
    size = path.stat().st_size
    if beginning and looks_like_text(beginning):
        raise CheckpointError(f"{path} is a web page or a message, not a checkpoint: download it again")
    if beginning[8:9] == b"{":
        raise CheckpointError(f"{path} is a safetensors file, not a released checkpoint (.ckpt)")
    if beginning.startswith(b"PK\x03\x04"):
        raise CheckpointError(f"{path}: truncated, it ends after {size} bytes without its directory; download it again")
    raise CheckpointError(f"{path}: not a PyTorch checkpoint (no zip file, {size} bytes)")
