"""The files of a run that the viewer's page may read and write: one folder, by plain file names; it replaces nothing
that others wrote."""

from __future__ import annotations

import io
import itertools
import os
import shutil
import stat
import zipfile
from pathlib import Path

from scenetok_ns.data.capture.writer import TRANSFORMS
from scenetok_ns.data.scenes import DataError
from scenetok_ns.models.tokens import SceneTokens, is_token_file
from scenetok_ns.tools.atomic_files import write_atomically

FOLDER = "viewer"
"""Name of the viewer's folder in the run folder."""
CAPTURES = "captures"
"""Folder of the scenes that were made of uploaded photographs."""
LONGEST_NAME = 100
MEBIBYTE = 2**20
LARGEST = {".safetensors": 64 * MEBIBYTE, ".ply": 512 * MEBIBYTE}
"""Maximum size of an uploaded file in bytes, by suffix."""
LARGEST_PICTURE = 64 * MEBIBYTE
LARGEST_ARCHIVE = 512 * MEBIBYTE
LARGEST_UPLOAD = max(*LARGEST.values(), LARGEST_PICTURE, LARGEST_ARCHIVE)
MOST_PHOTOGRAPHS = 120
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".heic", ".heif", ".tif", ".tiff", ".bmp")
KEPT = 20
"""Number of videos and captures to keep; the oldest are deleted first."""


def bare_name(name: str, suffixes: tuple[str, ...]) -> str:
    """Check and return a file name. Raises DataError if it leads elsewhere, is hidden, or has another ending."""
    plain = name.strip()
    leads_away = plain in ("", ".", "..") or any(mark in plain for mark in '/\\:\0"<>|?*') or plain[0] in ".~-"
    if leads_away or not plain.isprintable() or len(plain) > LONGEST_NAME:
        raise DataError(f"expected the bare name of a file (letters, digits, no folder), got {name[:60]!r}")
    if Path(plain).suffix.lower() not in suffixes:
        raise DataError(f"expected a name that ends in {' or '.join(suffixes[:4])}, got {plain!r}")
    return plain


class ViewerFiles:
    """Files in `RUN/viewer`. Names come from browsers: every method refuses a name that leads out of the folder."""

    def __init__(self, run: Path) -> None:
        """`run`: The run folder. No folder is created before a file is written."""
        self.run, self.folder = run.absolute(), run.absolute() / FOLDER

    # --- Token files and splats ---

    def names(self, suffix: str) -> list[str]:
        """The files of a kind that can be opened, the newest first."""
        if not self.folder.is_dir() or self.folder.is_symlink():
            return []
        files = [path for path in self.folder.iterdir() if path.suffix == suffix and _is_plain(path)]
        return [path.name for path in sorted(files, key=lambda path: -path.stat().st_mtime)]

    def existing(self, name: str, suffix: str) -> Path:
        """The path of a file to read. Raises DataError: a bad name, no such file, a link, a device."""
        path = self.folder / bare_name(name, (suffix,))
        if self.folder.is_symlink() or not _is_plain(path):
            there = ", ".join(self.names(suffix)[:5]) or "none yet"
            raise DataError(f"there is no {path.name} in the viewer's folder of this run; it has: {there}")
        return path

    def save_tokens(self, tokens: SceneTokens, name: str) -> Path:
        """Write a token file. Replaces only another token file of that name. Raises DataError and OSError."""
        path = self._target(bare_name(name, (".safetensors",)))
        if os.path.lexists(path) and not (_is_plain(path) and is_token_file(path)):
            raise DataError(f"{path.name} exists and is not a token file; choose another name")
        tokens.save(path)
        return path

    def take(self, name: str, content: bytes, suffix: str) -> Path:
        """Write an uploaded file under a free name. Raises DataError if the file is too large."""
        wanted = bare_name(name, (suffix,))
        _check_size(wanted, len(content), LARGEST[suffix])
        path = self._free(self._target(wanted))
        write_atomically(path, content)
        return path

    # --- Photographs ---

    @property
    def photographs(self) -> Path:
        """The folder of uploaded photographs."""
        return self.folder / "photographs"

    def photograph_names(self) -> list[str]:
        """Uploaded photographs by name, in the order in which they came."""
        if not self.photographs.is_dir() or self.photographs.is_symlink():
            return []
        files = [path for path in self.photographs.iterdir() if path.suffix.lower() in PICTURES and _is_plain(path)]
        return [path.name for path in sorted(files, key=lambda path: (path.stat().st_mtime_ns, path.name))]

    def photograph(self, name: str) -> Path:
        """The path of an uploaded photograph. Raises DataError if there is none of that name."""
        path = self.photographs / bare_name(name, PICTURES)
        if name not in self.photograph_names():
            raise DataError(f"there is no uploaded photograph {name!r}")
        return path

    def take_photographs(self, name: str, content: bytes) -> list[Path]:
        """Write an uploaded photograph, or those of a ZIP archive. Raises DataError; then nothing is written."""
        found = _photographs_of_zip(name, content) if name.lower().endswith(".zip") else [(name, content)]
        there = len(self.photograph_names())
        if there + len(found) > MOST_PHOTOGRAPHS:
            raise DataError(
                f"{there} and {len(found)} photographs are more than {MOST_PHOTOGRAPHS}: forget the uploaded ones first"
            )
        for one, data in found:
            _check_size(bare_name(one, PICTURES), len(data), LARGEST_PICTURE)
        self._target("photographs")
        written = []
        for one, data in found:
            path = self._free(self.photographs / bare_name(one, PICTURES))
            write_atomically(path, data)
            written.append(path)
        return written

    def forget_photographs(self) -> int:
        """Delete the uploaded photographs; returns their number."""
        names = self.photograph_names()
        for name in names:
            (self.photographs / name).unlink()
        return len(names)

    # --- What the viewer makes ---

    def captures(self) -> dict[str, Path]:
        """Scenes that were made of uploaded photographs, by name, in the order in which they came."""
        home = self.folder / CAPTURES
        if not home.is_dir() or self.folder.is_symlink() or home.is_symlink():
            return {}
        folders = sorted(path for path in home.iterdir() if path.name.isdecimal() and not path.is_symlink())
        return {f"photographs {int(path.name)}": path for path in folders if (path / TRANSFORMS).is_file()}

    def new_folder(self, kind: str) -> Path:
        """Choose the path of a new folder of a kind ("videos", "captures"). Deletes the oldest; `KEPT` remain."""
        home = self._target(kind)
        home.mkdir(parents=True, exist_ok=True)
        numbers = sorted(int(path.name) for path in home.iterdir() if path.name.isdecimal() and path.is_dir())
        for number in numbers[: max(len(numbers) - KEPT + 1, 0)]:
            shutil.rmtree(home / f"{number:04d}", ignore_errors=True)
        return home / f"{(numbers[-1] if numbers else 0) + 1:04d}"

    def _target(self, name: str) -> Path:
        if self.folder.is_symlink() or (self.folder / name).is_symlink():
            raise DataError(f"{self.folder / name} is a link; the viewer writes into folders of the run only")
        return self.folder / name

    @staticmethod
    def _free(path: Path) -> Path:
        """Return the path, with a number appended if the name is already taken."""
        if not os.path.lexists(path):
            return path
        names = (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in itertools.count(2))
        return next(name for name in names if not os.path.lexists(name))


def _is_plain(path: Path) -> bool:
    """Whether a path is a file by itself: not a link, a folder, a device or a pipe."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def _check_size(name: str, size: int, largest: int) -> None:
    if not 0 < size <= largest:
        raise DataError(f"{name} has {size:,} bytes; expected 1 to {largest:,}")


def _photographs_of_zip(name: str, content: bytes) -> list[tuple[str, bytes]]:
    """Name and bytes of the pictures in an archive, whatever their folders; other files are passed over."""
    _check_size(name, len(content), LARGEST_ARCHIVE)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [
                member
                for member in archive.infolist()
                if Path(member.filename).suffix.lower() in PICTURES and not Path(member.filename).name.startswith(".")
            ]
            if not members or len(members) > MOST_PHOTOGRAPHS:
                raise DataError(f"{name} holds {len(members)} photographs; expected 1 to {MOST_PHOTOGRAPHS}")
            if sum(member.file_size for member in members) > LARGEST_ARCHIVE:
                raise DataError(f"{name} holds more than {LARGEST_ARCHIVE:,} bytes")
            return [(Path(member.filename).name, archive.read(member)) for member in members]
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError, EOFError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{name} cannot be read as a ZIP archive: {error}") from error
