"""The files of rendered paths: videos, pictures and the paths themselves, in folders that hold nothing else's files."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from scenetok_ns.data.camera_path_files import FRAME_RATE, write_path
from scenetok_ns.rendering.picture_files import save_picture, to_bytes
from scenetok_ns.rendering.shots import NearestPhotographs, Shot
from scenetok_ns.tools.atomic_files import is_gone, this_process

PATH_SUFFIX = ".camera_path.json"
PICTURE = re.compile(r"\d{5,}\.png")
SHOWN = 3
"""Files that an error names."""
UNFINISHED = re.compile(r"\.render-(\d+@.+)-\w+")
"""Folders that renders are made in, with their process."""
BEFORE = ".before"
"""In such a folder: what the render takes the place of."""
PATIENCE_S = 24 * 3600.0
"""For unfinished renders of other machines, in which nothing changes: one may wait long for its turn."""


class ShotFiles:
    """The files of one shot: `<name>.mp4`, pictures in the folder `<name>`, and the path, `<name>.camera_path.json`.

    `formats`: mp4, png or both. A context manager: the files have their names when all is in them, in the place of an
    earlier render's, which is still there if anything fails. An earlier render's file in a format that isn't asked for
    stays if it shows the same path, and goes if it shows another. Ask `check_names` first.
    """

    def __init__(self, shot: Shot, folder: Path, formats: Sequence[str], frame_rate: float = FRAME_RATE) -> None:
        self.shot, self.folder, self.formats, self.frame_rate = shot, folder, formats, frame_rate
        self._photographs = None if shot.photographs is None else NearestPhotographs(shot)
        self._stack = ExitStack()
        self._writer: Any = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a picture, photograph included."""
        height, width = self.shot.path.size
        return height, width + (height if self._photographs else 0)

    def __enter__(self) -> ShotFiles:
        with ExitStack() as stack:
            self._part = stack.enter_context(_finished_files(self.folder))
            write_path(self._part / f"{self.shot.name}{PATH_SUFFIX}", self.shot.path, self.frame_rate)
            if "mp4" in self.formats:
                video = self._part / f"{self.shot.name}.mp4"
                self._writer = stack.enter_context(_video(video, self.size, self.frame_rate))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def add(self, first: int, frames: Float[Tensor, "f 3 height width"]) -> None:
        for number, frame in enumerate(frames.cpu(), start=first):
            if self._photographs is not None:
                frame = torch.cat([frame, self._photographs.picture(number, frame.shape[1])], dim=2)
            levels = to_bytes(frame)
            if self._writer is not None:
                self._writer.add_image(levels.permute(1, 2, 0).numpy())
            if "png" in self.formats:
                save_picture(self._part / self.shot.name / f"{number:05d}.png", levels)


def check_folder(folder: Path) -> None:
    """Raise FileExistsError unless renders may go into `folder`: it is not there, or empty, or has some already."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise FileExistsError(f"--output: {folder} is a file; expected a folder")
    found = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    if found and not any(name.endswith(PATH_SUFFIX) for name in found):
        shown = ", ".join(found[:SHOWN]) + (", ..." if len(found) > SHOWN else "")
        raise FileExistsError(f"--output: {folder} holds other things than renders ({shown}); choose another folder")


def check_names(folder: Path, names: Sequence[str], formats: Sequence[str]) -> None:
    """Raise FileExistsError if a file of the shots `names` would replace one that no render made, or if one would be
    taken for a render's once the path is beside it.

    An earlier render's files have its path beside them. The viewer's paths have keyframes, a render's have none.
    """
    for name in names:
        path, video, pictures = folder / f"{name}{PATH_SUFFIX}", folder / f"{name}.mp4", folder / name
        replaceable = {path: _without_keyframes(path), video: path.exists() and video.is_file()}
        if "png" in formats or _only_pictures(pictures):
            replaceable[pictures] = path.exists() and _only_pictures(pictures)
        for file, ours in replaceable.items():
            if file.exists() and not ours:
                raise FileExistsError(f"--output: {file} is there, and not of `scenetok render`; choose another folder")


def _without_keyframes(path: Path) -> bool:
    try:
        return json.loads(path.read_text("utf8"))["keyframes"] == []
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _only_pictures(folder: Path) -> bool:
    return folder.is_dir() and all(PICTURE.fullmatch(path.name) for path in _visible(folder))


def _visible(folder: Path) -> list[Path]:
    """What is in a folder, without what systems leave there (.DS_Store)."""
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


@contextmanager
def _finished_files(folder: Path) -> Iterator[Path]:
    """A folder to fill; what is in it in the end moves to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".render-{this_process()}-", dir=folder))
    (part / BEFORE).mkdir()
    try:
        yield part
        _put_in_place(part)
    except BaseException:
        if not any((part / BEFORE).glob("*")):  # else it could not be put back, and stays for `finish_killed`
            shutil.rmtree(part, ignore_errors=True)
        raise
    shutil.rmtree(part, ignore_errors=True)


def _put_in_place(part: Path) -> None:
    """Move what is in `part` to the folder around it; what must go moves to part/.before. All or nothing.

    The path goes last, in and out, so that this can go on where a killed process stopped.
    """
    made = sorted(_visible(part), key=lambda file: file.name.endswith(PATH_SUFFIX))
    replaced = [part.parent / file.name for file in made]
    moves = [(file, part / BEFORE / file.name) for file in (*_outdated(part), *replaced) if file.exists()]
    moves += zip(made, replaced, strict=True)
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


def _outdated(part: Path) -> list[Path]:
    """An earlier render's files, in formats that `part` hasn't, that show another path."""
    found: list[Path] = []
    for path in part.glob(f"*{PATH_SUFFIX}"):
        there, name = part.parent / path.name, path.name.removesuffix(PATH_SUFFIX)
        if there.exists() and there.read_bytes() != path.read_bytes():
            video, pictures = part.parent / f"{name}.mp4", part.parent / name
            found += [video] * video.is_file() + [pictures] * _only_pictures(pictures)
    return [file for file in found if not (part / file.name).exists()]


def finish_killed(folder: Path) -> None:
    """Remove what renders into `folder` left that were killed; files that one was moving to their places get there."""
    for part in sorted(folder.glob(".render-*")) if folder.is_dir() else ():
        owner = UNFINISHED.fullmatch(part.name)
        if owner is None or not is_gone(owner[1], _last_change(part), PATIENCE_S):
            continue
        if any((part / BEFORE).glob("*")):
            _put_in_place(part)
        shutil.rmtree(part, ignore_errors=True)


def _last_change(folder: Path) -> float:
    try:
        return max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
    except FileNotFoundError:  # somebody works in it
        return time.time()


@contextmanager
def _video(path: Path, size: tuple[int, int], frame_rate: float) -> Iterator[Any]:
    """A video to add pictures to. Raises OSError without ffmpeg."""
    import mediapy

    try:
        writer = mediapy.VideoWriter(path, size, fps=frame_rate, crf=12)
        writer.__enter__()
    except RuntimeError as error:
        raise OSError(f"cannot write {path.name}: {error}; install ffmpeg, or take --formats png") from error
    try:
        yield writer
    finally:
        writer.close()


def file_names(names: Sequence[str]) -> list[str]:
    """Names for the files of scenes, all different, without what separates folders."""
    made: list[str] = []
    for name in names:
        plain = name.replace("/", "_").replace("\\", "_").strip(". ") or "scene"
        number = 2
        unique = plain
        while unique in made:
            unique, number = f"{plain}-{number}", number + 1
        made.append(unique)
    return made
