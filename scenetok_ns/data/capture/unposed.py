"""Recognise pictures without cameras early, for commands that need cameras."""

from __future__ import annotations

from pathlib import Path

from scenetok_ns.data.capture.photographs import SUFFIXES, VIDEOS
from scenetok_ns.data.errors import DataError
from scenetok_ns.tools.printing import command

POSED = (
    *("transforms.json", "*/transforms.json", "*/*/transforms.json", "*/*/*/transforms.json"),
    *("sparse/**/cameras.*", "colmap/**/cameras.*", "cameras.bin", "cameras.txt"),
    *("index.json", "*/index.json", "keyframes", "EXR_RGBD"),
)
"""Patterns of files and folders that only data with cameras has."""


def is_unposed(data: Path) -> bool:
    """Whether `data` is a video, a photograph, or a folder of these without cameras."""
    if data.is_file():
        return data.suffix.lower() in VIDEOS | SUFFIXES
    if not data.is_dir() or any(next(data.glob(pattern), None) is not None for pattern in POSED):
        return False
    return any(path.suffix.lower() in SUFFIXES | VIDEOS for path in data.rglob("*") if path.is_file())


def check_posed(data: Path) -> None:
    """Raise DataError, with the command that helps, for a video or photographs without cameras."""
    if is_unposed(data):
        raise DataError(unposed_line(data))


def unposed_line(data: Path) -> str:
    """Describe in one line what to do with data without cameras."""
    if data.is_file() and data.suffix.lower() in SUFFIXES:
        return f"{data} is one photograph: {command('scenetok', 'generate', '--image', data)} makes a scene of it"
    folder = f"{data.with_suffix('') if data.is_file() else data}-capture"
    making = command("scenetok", "capture", data, "--output", folder)
    return f"{data} has no cameras: {making} finds them; then give --data {command(folder)}"
