"""Write the files of rendered paths: videos, pictures and the paths themselves. Other files are never replaced."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from scenetok_ns.data.camera_path_files import FRAME_RATE, write_path
from scenetok_ns.rendering.picture_files import captioned, save_picture, to_bytes
from scenetok_ns.rendering.shots import NearestPhotographs, Shot
from scenetok_ns.tools.atomic_files import atomic_update
from scenetok_ns.tools.ffmpeg import put_ffmpeg_on_path

PATH_SUFFIX = ".camera_path.json"
PICTURE = re.compile(r"\d{5,}\.png")
SHOWN = 3
"""Maximum number of file names in an error message."""


class ShotFiles:
    """The files of one shot: `<name>.mp4`, pictures in the folder `<name>`, and the path, `<name>.camera_path.json`.

    Use it as a context manager. When all files are complete, they replace those of an earlier render; if anything
    fails, the earlier files stay. Earlier files in a format that is not in `formats` (mp4, png or both) stay if they
    show the same path, and are removed otherwise. Call `check_names` first.
    """

    def __init__(self, shot: Shot, folder: Path, formats: Sequence[str], frame_rate: float = FRAME_RATE) -> None:
        self.shot, self.folder, self.formats, self.frame_rate = shot, folder, formats, frame_rate
        self._photographs = None if shot.photographs is None else NearestPhotographs(shot)
        self._stack = ExitStack()
        self._writer: Any = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a picture, including the photograph beside it."""
        height, width = self.shot.path.size
        return height, width + (height if self._photographs else 0)

    def __enter__(self) -> ShotFiles:
        with ExitStack() as stack:
            self._part = stack.enter_context(atomic_update(self.folder, "render", _plan))
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
            beside = [] if self._photographs is None else [self._photographs.picture(number, frame.shape[1])]
            levels = to_bytes(torch.cat([frame, *beside], dim=2))
            if self._writer is not None:
                # Pictures have no captions, because users may measure them.
                shown = captioned(levels, {0: "model", frame.shape[2]: "photograph"}) if beside else levels
                self._writer.add_image(shown.permute(1, 2, 0).numpy())
            if "png" in self.formats:
                save_picture(self._part / self.shot.name / f"{number:05d}.png", levels)


def check_folder(folder: Path) -> None:
    """Raise FileExistsError unless `folder` is absent, is empty, or already holds renders."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise FileExistsError(f"--output: {folder} is a file; expected a folder")
    found = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    if found and not any(name.endswith(PATH_SUFFIX) for name in found):
        shown = ", ".join(found[:SHOWN]) + (", ..." if len(found) > SHOWN else "")
        raise FileExistsError(f"--output: {folder} holds files other than renders ({shown}); choose another folder")


def check_names(folder: Path, names: Sequence[str], formats: Sequence[str]) -> None:
    """Raise FileExistsError if files of the shots `names` would replace a file that is not a render.

    An error is also raised if a file could later be mistaken for a render. Renders are recognised by the path beside
    them, which has no keyframes; paths that the viewer saves have keyframes.
    """
    for name in names:
        path, video, pictures = folder / f"{name}{PATH_SUFFIX}", folder / f"{name}.mp4", folder / name
        replaceable = {path: _without_keyframes(path), video: path.exists() and video.is_file()}
        if "png" in formats or _only_pictures(pictures):
            replaceable[pictures] = path.exists() and _only_pictures(pictures)
        for file, ours in replaceable.items():
            if file.exists() and not ours:
                raise FileExistsError(f"--output: {file} was not written by `scenetok render`; choose another folder")


def _without_keyframes(path: Path) -> bool:
    try:
        return json.loads(path.read_text("utf8"))["keyframes"] == []
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _only_pictures(folder: Path) -> bool:
    return folder.is_dir() and all(PICTURE.fullmatch(path.name) for path in _visible(folder))


def _visible(folder: Path) -> list[Path]:
    """Files of a folder, without hidden ones such as .DS_Store."""
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


def _plan(made: Path) -> tuple[list[str], list[str]]:
    """List for `atomic_update` the files that move from `made` to its parent, and those of an earlier render to remove.

    The path moves last, because files without a path beside them do not count as a render.
    """
    names = sorted((file.name for file in _visible(made)), key=lambda name: name.endswith(PATH_SUFFIX))
    return names, [file.name for file in _outdated(made) if file.name not in names]


def _outdated(made: Path) -> list[Path]:
    """Files of an earlier render that show another path."""
    found: list[Path] = []
    for path in made.glob(f"*{PATH_SUFFIX}"):
        there, name = made.parent / path.name, path.name.removesuffix(PATH_SUFFIX)
        if there.exists() and there.read_bytes() != path.read_bytes():
            video, pictures = made.parent / f"{name}.mp4", made.parent / name
            found += [video] * video.is_file() + [pictures] * _only_pictures(pictures)
    return found


@contextmanager
def _video(path: Path, size: tuple[int, int], frame_rate: float) -> Iterator[Any]:
    """Open a video to which pictures are added. Raises OSError without ffmpeg."""
    import mediapy

    put_ffmpeg_on_path()
    try:
        writer = mediapy.VideoWriter(path, size, fps=frame_rate, crf=12)
        writer.__enter__()
    except RuntimeError as error:
        raise OSError(f"cannot write {path.name}: {error}; pip install imageio-ffmpeg, or use --formats png") from error
    try:
        yield writer
        writer.close()
    except (RuntimeError, BrokenPipeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise OSError(f"ffmpeg cannot write {path.name}: {reason}; try another --size, or use --formats png") from error
    finally:
        with suppress(RuntimeError, BrokenPipeError):
            writer.close()


def file_names(names: Sequence[str]) -> list[str]:
    """Choose file names for scenes: all different, without slashes and backslashes."""
    made: list[str] = []
    for name in names:
        plain = name.replace("/", "_").replace("\\", "_").strip(". ") or "scene"
        number = 2
        unique = plain
        while unique in made:
            unique, number = f"{plain}-{number}", number + 1
        made.append(unique)
    return made
