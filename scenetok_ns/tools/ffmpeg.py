"""Provide an ffmpeg to tools that look for one on PATH: the binary that comes with the package imageio-ffmpeg."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import sys
import tempfile
from pathlib import Path

logger = logging.getLogger(__name__)

NAME = "ffmpeg.exe" if sys.platform == "win32" else "ffmpeg"


def put_ffmpeg_on_path() -> str | None:
    """Let this process and its children find ffmpeg, as ns-render and mediapy expect it.

    If PATH already has an ffmpeg, nothing changes. Otherwise a folder with a link to imageio-ffmpeg's binary, which has
    another file name, is put at the end of PATH.

    Returns:
        The program that will run; None if there is none.
    """
    found = shutil.which("ffmpeg")
    if found is not None:
        return found
    folder = _cache()
    if folder is None or not (folder / NAME).is_file():
        folder = _made_folder(folder)
    if folder is None:
        return None
    os.environ["PATH"] = os.pathsep.join(part for part in (os.environ.get("PATH", ""), str(folder)) if part)
    return shutil.which("ffmpeg")


def _cache() -> Path | None:
    """Folder for the link in the user's cache; None if there is no home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "scenetok_ns" / "bin"
    except RuntimeError:
        return None


def _made_folder(cache: Path | None) -> Path | None:
    """Create a folder that holds the program under its usual name, and return it.

    The folder is `cache` or, if that cannot be written, a temporary one that is removed when this process ends. None
    if there is no program.
    """
    try:
        import imageio_ffmpeg

        program = Path(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError) as error:
        logger.debug("no ffmpeg: %s", error)
        return None
    if cache is not None:
        try:
            cache.mkdir(parents=True, exist_ok=True)
            _link(program, cache)
            return cache
        except OSError as error:
            logger.debug("no link to ffmpeg in %s: %s", cache, error)
    folder = Path(tempfile.mkdtemp(prefix="scenetok-ns-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    _link(program, folder)
    return folder


def _link(program: Path, folder: Path) -> None:
    part = folder / f".{NAME}.{os.getpid()}"
    try:
        part.symlink_to(program)
    except OSError:  # Windows without the right to make links
        shutil.copy2(program, part)
    os.replace(part, folder / NAME)
