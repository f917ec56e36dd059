"""Find the pictures that another program rendered of the target views, by scene and frame."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from scenetok_ns.data.scenes import DataError
from scenetok_ns.evaluation.records import file_name

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
SIDE_BY_SIDE = "eval_img_"
"""Prefix of ns-eval's files, which show the truth on the left and the prediction on the right."""
LAYOUTS = "SCENE/FRAME.png, SCENE_FRAME.png, or what ns-eval --render-output-path writes"


@dataclass(frozen=True)
class PictureFolder:
    """The pictures of one method: scene -> frame number -> file."""

    root: Path
    files: dict[str, dict[int, Path]]

    @classmethod
    def find(cls, root: Path, wanted: Mapping[str, Sequence[int]], *, in_order: bool = False) -> PictureFolder:
        """Find the pictures of scenes.

        The pictures of a scene are in a folder with its name, or are files in `root` whose names begin with its name.
        The last number in a file's name is the frame number; files without a number are ignored.

        Args:
            root: Folder of the method.
            wanted: Scene -> frame numbers of its target views.
            in_order: Take the n-th file of a scene, by name, as its n-th target view, whatever the number in its name.

        Raises:
            DataError: `root` has no picture of any of the scenes, or has two pictures of one frame.
        """
        if not root.is_dir():
            raise DataError(f"there is no folder {root} with pictures")
        flat = _by_scene(root)
        found = {}
        for key, frames in wanted.items():
            files = _own_folder(root, key) or flat.get(key) or flat.get(file_name(key)) or []
            if files:
                found[key] = _by_place(key, files, frames) if in_order else _by_number(key, files)
        if not found:
            raise DataError(f"{root} has no pictures of the scenes to compare with; expected {LAYOUTS}")
        return cls(root, found)

    def missing(self, key: str, frames: Sequence[int]) -> list[int]:
        """Frames of a scene that have no picture."""
        there = self.files.get(key, {})
        return [frame for frame in frames if frame not in there]

    def load(self, key: str, frames: Sequence[int]) -> UInt8[Tensor, "v 3 height width"]:
        """Load pictures of a scene. Raises DataError if they are damaged or transparent, or differ in size."""
        pictures = [_read(self.files[key][frame]) for frame in frames]
        sizes = {picture.shape[:2] for picture in pictures}
        if len(sizes) > 1:
            raise DataError(f"{self.root}: pictures of scene {key} have different sizes: {sorted(sizes)}")
        return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()

    def digest(self, keys: Sequence[str]) -> str:
        """Digest of names, sizes and modification times of these scenes' files, which changes if one is replaced."""
        digest = hashlib.sha256()
        for key in keys:
            for frame, path in sorted(self.files.get(key, {}).items()):
                status = path.stat()
                digest.update(f"{key} {frame} {path.name} {status.st_size} {status.st_mtime_ns}\n".encode())
        return digest.hexdigest()


def _own_folder(root: Path, key: str) -> list[Path]:
    """Pictures in a scene's own folder; only the predictions if it also holds truth and context, as written by
    `scenetok evaluate`."""
    folder = next((root / name for name in (key, file_name(key)) if (root / name).is_dir()), None)
    if folder is None:
        return []
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    return [path for path in files if path.name.startswith("pred_")] or files


def _by_scene(root: Path) -> dict[str, list[Path]]:
    """Scene -> its pictures directly in `root`."""
    found: dict[str, list[Path]] = {}
    for path in sorted(root.iterdir()):
        match = re.fullmatch(rf"(?:{SIDE_BY_SIDE})?(.+)[_-]\d+", path.stem)
        if match is not None and path.suffix.lower() in SUFFIXES:
            found.setdefault(match[1], []).append(path)
    return found


def _by_number(key: str, files: Sequence[Path]) -> dict[int, Path]:
    found: dict[int, Path] = {}
    for path in files:
        numbers = re.findall(r"\d+", path.stem)
        if not numbers:
            continue
        frame = int(numbers[-1])
        if frame in found:
            raise DataError(f"scene {key}: {found[frame]} and {path} both have the number {frame}")
        found[frame] = path
    return found


def _by_place(key: str, files: Sequence[Path], frames: Sequence[int]) -> dict[int, Path]:
    if len(files) != len(frames):
        raise DataError(
            f"scene {key}: --in-order needs a picture for each of its {len(frames)} target views, there are "
            f"{len(files)} in {files[0].parent}"
        )
    return dict(zip(frames, files, strict=True))


def _read(path: Path) -> UInt8[np.ndarray, "height width 3"]:
    try:
        with Image.open(path) as image:
            if image.mode not in ("RGB", "L", "P", "RGBA"):
                raise DataError(f"{path} has pixels of mode {image.mode}; expected 8 bits for each of 3 colours")
            if image.mode in ("P", "RGBA") and image.convert("RGBA").getextrema()[3] != (255, 255):
                raise DataError(f"{path} is partly transparent: put it on a background first")
            pixels = np.array(image.convert("RGB"))
    except (OSError, SyntaxError, UnidentifiedImageError) as error:
        raise DataError(f"{path} cannot be decoded: {error}") from error
    if path.name.startswith(SIDE_BY_SIDE):
        if pixels.shape[1] % 2:
            raise DataError(f"{path} is not a pair of pictures side by side: it is {pixels.shape[1]} pixels wide")
        pixels = pixels[:, pixels.shape[1] // 2 :]
    return pixels
