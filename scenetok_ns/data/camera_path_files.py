"""Files of camera poses, read and written: Nerfstudio's camera paths (viewer, ns-render) and transforms.json."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from scenetok_ns.data.images import crop_intrinsics
from scenetok_ns.data.lenses import opencv_distortion, straight_matrix
from scenetok_ns.data.picture_folder import PictureFolder, picture_size
from scenetok_ns.data.poses import flip_axes
from scenetok_ns.data.scenes import DataError
from scenetok_ns.data.square_pictures import PictureRequest
from scenetok_ns.data.transforms_file import FileFrame, origin_of, read_transforms
from scenetok_ns.models.cameras import CameraBatch, are_rigid
from scenetok_ns.tools.atomic_files import write_atomically

FRAME_RATE = 24.0


@dataclass(frozen=True)
class CameraPath:
    """Pictures to be taken: `size` = (height, width) pixels, cut from the middle of squares (`PictureRequest`)."""

    c2w: Float[Tensor, "n 4 4"]
    """Camera-to-world, OpenCV axes, in the capture's world and units."""
    intrinsics: Float[Tensor, "n 3 3"]
    """Of the squares, divided by their side."""
    size: tuple[int, int]

    @property
    def request(self) -> PictureRequest:
        return PictureRequest(*self.size, wide="fill")

    @property
    def cameras(self) -> CameraBatch:
        return CameraBatch(self.c2w[None], self.intrinsics[None])

    @property
    def fields_of_view(self) -> list[float]:
        """Of each picture from top to bottom, in degrees."""
        half = self.size[0] / 2 / (self.intrinsics[:, 1, 1].double() * self.request.side)
        return (2 * half.atan()).rad2deg().tolist()


def square_lens(focal: float) -> Float[Tensor, "3 3"]:
    """Intrinsics of a square picture of focal length `focal` sides, looked at straight."""
    return torch.tensor([[focal, 0.0, 0.5], [0.0, focal, 0.5], [0.0, 0.0, 1.0]])


def read_camera_path(path: Path) -> Float[Tensor, "n 4 4"]:
    """Camera-to-world poses (OpenCV axes) of all frames of a path. Raises DataError, in one line."""
    if not path.is_file():
        raise DataError(f"no camera path at {path}; the viewer's render tab makes them")
    try:
        rows = [entry["camera_to_world"] for entry in json.loads(path.read_text("utf-8-sig"))["camera_path"]]
        poses = torch.tensor(rows, dtype=torch.float64).reshape(-1, 4, 4)
    except UnicodeDecodeError as error:  # its repr holds the whole file
        raise DataError(f"{path} is no camera path of Nerfstudio (camera_path_*.json): it is no text file") from error
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise DataError(f"{path} is no camera path of Nerfstudio (camera_path_*.json): {error!r}") from error
    return _checked(path, poses)


def read_path(path: Path, size: tuple[int, int] | None, side: int) -> CameraPath:
    """Frames of a camera path, or photographs of a transforms.json in the order of their names.

    Args:
        size: (height, width) of the pictures; None: as the camera path says; of transforms.json, the square crop of
            its photographs that models of `side` pixels see.

    Raises DataError, in one line.
    """
    if not path.is_file():
        raise DataError(f"no file {path}; expected a camera path of the viewer, or transforms.json")
    try:
        content = json.loads(path.read_text("utf-8-sig"))
        is_path = "camera_path" in content
    except (ValueError, TypeError) as error:
        raise DataError(f"{path} is no camera path of Nerfstudio and no transforms.json: {error}") from error
    if is_path:
        return _with_lenses(path, read_camera_path(path), content, size)
    return _of_photographs(path, size, side)


def _with_lenses(path: Path, c2w: Tensor, content: dict[str, Any], size: tuple[int, int] | None) -> CameraPath:
    try:
        if str(content.get("camera_type", "perspective")).lower() != "perspective":
            raise DataError(f"{path}: SceneTok renders perspective cameras only, got {content['camera_type']}")
        height, width = size or (int(content["render_height"]), int(content["render_width"]))
        fields = [float(entry["fov"]) for entry in content["camera_path"]]
        if not all(0 < field < 180 for field in fields) or min(height, width) < 1:
            raise DataError(f"{path}: expected fields of view between 0 and 180 degrees, and a picture size")
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is no camera path of Nerfstudio (camera_path_*.json): {error!r}") from error
    # The field of view is that of the picture's height; the square is as high as the longer side.
    focal = [height / 2 / math.tan(math.radians(field) / 2) / max(height, width) for field in fields]
    return CameraPath(c2w, torch.stack([square_lens(one) for one in focal]), (height, width))


def _of_photographs(path: Path, size: tuple[int, int] | None, side: int) -> CameraPath:
    frames = sorted(read_transforms(path).frames, key=lambda frame: frame.file_path)
    pictures = PictureFolder(path.parent)
    poses = torch.from_numpy(np.stack([frame.c2w for frame in frames]))
    poses[:, :3, 3] -= torch.from_numpy(origin_of(poses[:, :3, 3].numpy()))
    lenses = [_square_crop(path, frame, pictures, side) for frame in frames]
    names = [frame.file_path for frame in frames]
    return CameraPath(_checked(path, poses, names), torch.stack(lenses), size or (side, side))


def _square_crop(path: Path, frame: FileFrame, pictures: PictureFolder, side: int) -> Float[Tensor, "3 3"]:
    """Normalised intrinsics of a photograph's square crop: those that encoding uses, so without lens distortion."""
    try:
        width, height = picture_size(pictures.find(frame.file_path))
    except DataError as error:  # a path needs no pictures
        if frame.lens.width is None or frame.lens.height is None:
            raise DataError(f"{path}: frame {frame.file_path} has no w and h, and {error}") from error
        width, height = round(frame.lens.width), round(frame.lens.height)
    matrix = frame.lens.matrix(width, height)
    straight = straight_matrix(matrix, opencv_distortion(np.array(frame.lens.distortion)), (width, height))
    straight[:2] /= np.array([[width], [height]])
    return crop_intrinsics(torch.from_numpy(straight).float(), (height, width), (side, side))


def _checked(path: Path, poses: Float[Tensor, "n 4 4"], names: Sequence[str] = ()) -> Float[Tensor, "n 4 4"]:
    """OpenGL poses of a file as OpenCV ones. Raises DataError unless there are some, all of them rigid."""
    if not len(poses):
        raise DataError(f"the camera path {path} has no frames")
    wrong = ~are_rigid(poses)
    if wrong.any():
        first = int(wrong.nonzero()[0])
        raise DataError(
            f"{path}: frame {names[first] if names else first} is not a camera pose (a rotation and a position)"
        )
    return flip_axes(poses).float()


def write_camera_path(path: Path, c2w: Float[Tensor, "n 4 4"], fov: float, side: int) -> None:
    """Square pictures of `side` pixels and `fov` degrees along a path, in the form that ns-render camera-path reads."""
    focal = 0.5 / math.tan(math.radians(fov) / 2)
    write_path(path, CameraPath(c2w, square_lens(focal).expand(len(c2w), 3, 3), (side, side)))


def write_path(file: Path, path: CameraPath, frame_rate: float = FRAME_RATE) -> None:
    """A path in the form that the viewer and ns-render camera-path read, whole or not at all.

    The form knows a field of view for each frame, but no principal point off the middle.
    """
    height, width = path.size
    frames: list[dict[str, Any]] = [
        {"camera_to_world": pose.flatten().tolist(), "fov": fov, "aspect": width / height}
        for pose, fov in zip(flip_axes(path.c2w), path.fields_of_view, strict=True)
    ]
    content = {
        "camera_type": "perspective",
        "render_height": height,
        "render_width": width,
        "fps": frame_rate,
        "seconds": len(frames) / frame_rate,
        "keyframes": [],
        "camera_path": frames,
    }
    write_atomically(file, json.dumps(content).encode())
