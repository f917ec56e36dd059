"""Read DL3DV as it is published: a folder for each scene, with Nerfstudio's transforms.json and downscaled images."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from scenetok_ns.data.depth_maps import MILLIMETRES, read_depth_map
from scenetok_ns.data.images import decode_image
from scenetok_ns.data.scenes import BadScene, DataError, Scene, SceneSource
from scenetok_ns.data.transforms_file import TRANSFORMS, frame_of, read_json
from scenetok_ns.tools.suggestions import did_you_mean

logger = logging.getLogger(__name__)

IMAGE_FOLDERS = ("images_4", "images_8", "images_2", "images")
"""Image folders in order of preference. The released models were trained on images_4."""
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
DISTORTION = ("k1", "k2", "k3", "p1", "p2")
ASPECT_TOLERANCE = 0.02
"""Relative difference of aspect ratios that rounding to whole pixels explains. With a larger one, images differ."""


class DL3DVSource(SceneSource):
    """The scene folders in `folder` and in subfolders that are not scenes, or `folder` itself if it is a scene.

    DL3DV-ALL is downloaded as `{1K..11K}/<scene>/transforms.json`, the benchmark as
    `<scene>/nerfstudio/transforms.json`. One more folder with the scene's name, which some archives contain, is
    accepted. Beside transforms.json lies the image folder (`image_folder`, or the first that exists of IMAGE_FOLDERS).

    Frames are sorted by their file names, which is the order of the video and of the frame numbers in published
    evaluation indices. Lens distortion (k1 to p2) is not removed: the published code ignores it, and the released
    weights expect the images as they are. Raises DataError if there is no scene.
    """

    def __init__(self, folder: Path, image_folder: str | None = None) -> None:
        super().__init__()
        self.folder = Path(folder)
        self.image_folder = image_folder
        self._told_of_distortion = False
        self._home_of = self._find_scenes()
        self._keys = tuple(self._home_of)

    @property
    def keys(self) -> Sequence[str]:
        return self._keys

    def scene(self, key: str) -> Scene:
        if key not in self._home_of:
            reason = self.skipped.reasons.get(key)
            if reason:
                raise BadScene(reason, key)
            raise DataError(f"{self.folder} has no scene {key!r}{did_you_mean(key, self.keys)}")
        home = self._home_of[key]
        meta = _read_transforms(home / TRANSFORMS, key)
        files = self._image_files(home, key)
        order = sorted(range(len(meta["frames"])), key=lambda i: _natural(_stem(meta["frames"][i], key)))
        meta = {**meta, "frames": [meta["frames"][i] for i in order]}
        c2w, intrinsics, timestamps = parse_transforms(meta, key)
        if not self._told_of_distortion and any(meta.get(name) for name in DISTORTION):
            self._told_of_distortion = True
            logger.info("%s: lens distortion (%s) is left in the images", self.folder, ", ".join(DISTORTION))
        names = tuple(_stem(frame, key) for frame in meta["frames"])
        missing = [name for name in names if name not in files]
        if missing:
            raise BadScene(f"{len(missing)} of {len(names)} images are missing, the first is {missing[0]}", key)
        read = partial(_decode, [files[name] for name in names], float(meta["w"]) / float(meta["h"]))
        named = [frame.get("depth_file_path") for frame in meta["frames"]]
        known = all(isinstance(name, str) for name in named)
        depth = partial(_read_depth, [home / name for name in named]) if known else None
        return Scene(key, c2w, intrinsics, names, read, timestamps, read_depth=depth)

    def _find_scenes(self) -> dict[str, Path]:
        if not self.folder.is_dir():
            raise DataError(f"no folder {self.folder}; expected one folder for each scene in it")
        home = home_of_scene(self.folder)
        if home is not None:
            return {self.folder.resolve().name: home}
        homes: dict[str, Path] = {}
        without: list[str] = []
        packed: list[str] = []
        for path in sorted(self.folder.iterdir()):
            if path.suffix.lower() == ".zip":
                packed.append(path.stem)
            if not path.is_dir():
                continue
            found = scenes_in(path)
            if found.homes or found.packed:
                for name, home in found.homes.items():
                    homes.setdefault(name, home)
                packed += found.packed
                without += found.without
            else:
                without.append(path.name)
        packed = [name for name in packed if name not in homes]
        if not homes:
            unpack = f"; {len(packed)} scenes are .zip archives: unpack them" if packed else ""
            raise DataError(f"{self.folder} holds no scene: expected <scene>/nerfstudio/{TRANSFORMS}{unpack}")
        self.skipped.add_all(without, f"no {TRANSFORMS}")
        self.skipped.add_all(packed, "a .zip archive that is not unpacked")
        return homes

    def _image_files(self, home: Path, key: str) -> dict[str, Path]:
        """File name without suffix -> file."""
        wanted = (self.image_folder,) if self.image_folder else IMAGE_FOLDERS
        folder = next((home / name for name in wanted if (home / name).is_dir()), None)
        if folder is None:
            raise BadScene(f"no image folder {' or '.join(wanted)}", key)
        return {path.stem: path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES}


def parse_transforms(meta: dict[str, Any], key: str) -> tuple[Float[Tensor, "v 4 4"], Float[Tensor, "v 3 3"], Tensor]:
    """Cameras and timestamps of a transforms.json in the order of its frames (parity c11_dl3dv_metadata).

    OpenGL camera-to-world becomes OpenCV; intrinsics, which may be given for each frame, are divided by `w` and `h`.
    The timestamp is the number at the end of the file name, else -1. Raises BadScene.
    """
    try:
        frames = [frame_of(TRANSFORMS, number, frame, meta) for number, frame in enumerate(meta["frames"])]
        width, height = (_size(meta, name) for name in ("w", "h"))
    except DataError as error:
        raise BadScene(str(error), key) from error
    intrinsics = np.stack([frame.lens.matrix(width, height) for frame in frames])
    intrinsics[:, :2] /= np.array([[width], [height]])
    c2w = np.stack([frame.c2w for frame in frames]) @ np.diag([1.0, -1.0, -1.0, 1.0])
    numbers = [re.search(r"(\d+)$", frame.name) for frame in frames]
    timestamps = torch.tensor([int(number[1]) if number else -1 for number in numbers], dtype=torch.int64)
    return torch.from_numpy(c2w).float(), torch.from_numpy(intrinsics).float(), timestamps


def home_of_scene(scene: Path) -> Path | None:
    """Return the folder of a scene's transforms.json; None if it has none."""
    places = (scene / "nerfstudio", scene, scene / scene.name / "nerfstudio", scene / scene.name)
    return next((path for path in places if (path / TRANSFORMS).is_file()), None)


@dataclass
class FoundScenes:
    """Content of a folder: the folder itself as a scene, or the scenes in it."""

    homes: dict[str, Path] = field(default_factory=dict)
    """Scene -> folder of its transforms.json."""
    packed: list[str] = field(default_factory=list)
    """Names of .zip archives."""
    without: list[str] = field(default_factory=list)
    """Names of folders that are not scenes."""


def scenes_in(folder: Path) -> FoundScenes:
    """Find the scene that a folder is, or the scenes in a folder such as DL3DV-ALL's 1K to 11K."""
    if (home := home_of_scene(folder)) is not None:
        return FoundScenes({folder.name: home})
    found = FoundScenes()
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() == ".zip":
            found.packed.append(path.stem)
        elif path.is_dir():
            home = home_of_scene(path)
            if home is None:
                found.without.append(path.name)
            else:
                found.homes[path.name] = home
    return found


def _read_transforms(path: Path, key: str) -> dict[str, Any]:
    try:
        meta = read_json(path)
    except DataError as error:
        raise BadScene(str(error), key) from error
    if not isinstance(meta.get("frames"), list) or not meta["frames"]:
        raise BadScene(f"{TRANSFORMS} has no frames", key)
    return meta


def _size(meta: dict[str, Any], name: str) -> int:
    try:
        size = int(meta[name])
    except (KeyError, TypeError, ValueError, OverflowError):
        size = 0
    if size < 1:
        raise DataError(f"{TRANSFORMS} lacks w and h, the image size that its focal lengths refer to")
    return size


def _stem(frame: Any, key: str) -> str:
    try:
        return PurePosixPath(frame["file_path"].replace("\\", "/")).stem
    except (KeyError, TypeError, AttributeError) as error:
        raise BadScene(f"{TRANSFORMS} has a frame without file_path", key) from error


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key in which frame_2 comes before frame_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _read_depth(files: Sequence[Path], index: int) -> Float[Tensor, "h w"]:
    return read_depth_map(files[index], MILLIMETRES)


def _decode(files: Sequence[Path], aspect: float, index: int) -> UInt8[Tensor, "3 h w"]:
    image = decode_image(files[index])
    height, width = image.shape[1:]
    if abs(width / height / aspect - 1) > ASPECT_TOLERANCE:
        raise ValueError(f"{width} x {height} pixels, but {TRANSFORMS} gives other proportions (w / h = {aspect:.3f})")
    return image
