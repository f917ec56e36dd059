"""Read and write files of camera poses: Nerfstudio's camera paths (viewer, ns-render) and transforms.json."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from scenetok_ns.data.images import crop_intrinsics
from scenetok_ns.data.lenses import opencv_distortion, straight_matrix
from scenetok_ns.data.picture_folder import PictureFolder, check_proportions, picture_size
from scenetok_ns.data.poses import bad_lens, bad_pose, flip_axes
from scenetok_ns.data.scenes import DataError
from scenetok_ns.data.square_pictures import PictureRequest
from scenetok_ns.data.transforms_file import FileFrame, origin_of, read_transforms
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.tools.atomic_files import write_atomically
from scenetok_ns.tools.json_files import JsonError, number, read_json

FRAME_RATE = 24.0
LARGEST_SIDE = 16384
"""Maximum side of a picture in pixels. A larger one is a typing error, or needs more memory than machines have."""
NARROWEST, WIDEST = 0.01, 179.9
"""Range of accepted fields of view in degrees."""


@dataclass(frozen=True)
class CameraPath:
    """Pictures to render: `size` = (height, width) pixels, cut from the middle of squares (`PictureRequest`)."""

    c2w: Float[Tensor, "n 4 4"]
    """Camera-to-world, OpenCV axes, in the capture's world and units."""
    intrinsics: Float[Tensor, "n 3 3"]
    """Intrinsics of the squares, divided by their side."""
    size: tuple[int, int]
    distortion: tuple[float, ...] = ()
    """Distortion (k1, k2, k3, k4, p1, p2) of the first photograph whose lens has any, which was removed. Empty: none
    has."""

    @property
    def request(self) -> PictureRequest:
        return PictureRequest(*self.size, wide="fill")

    @property
    def cameras(self) -> CameraBatch:
        return CameraBatch(self.c2w[None], self.intrinsics[None])

    @property
    def fields_of_view(self) -> list[float]:
        """Vertical field of view of each picture in degrees."""
        half = self.size[0] / 2 / (self.intrinsics[:, 1, 1].double() * self.request.side)
        return (2 * half.atan()).rad2deg().tolist()


def square_lens(focal: float) -> Float[Tensor, "3 3"]:
    """Return the intrinsics of a square picture, divided by its side, with the principal point in the middle."""
    return torch.tensor([[focal, 0.0, 0.5], [0.0, focal, 0.5], [0.0, 0.0, 1.0]])


def read_camera_path(path: Path) -> Float[Tensor, "n 4 4"]:
    """Read the camera-to-world poses (OpenCV axes) of all frames of a path. Raises DataError, in one line."""
    if not path.is_file():
        raise DataError(f"no camera path at {path}; create one in the viewer's render tab")
    with _naming(path, CAMERA_PATH):
        return _poses_of_path(read_json(path))


def check_camera_path(path: Path) -> None:
    """Raise DataError, in one line, unless a file is a path that `ns-render camera-path` can render with this model."""
    if not path.is_file():
        raise DataError(f"no camera path at {path}; create one in the viewer's render tab")
    with _naming(path, CAMERA_PATH):
        content = read_json(path)
        _with_lenses(_poses_of_path(content), content, None)
        number(content.get("seconds"), "seconds", above=0)


def read_path(path: Path, size: tuple[int, int] | None, side: int) -> CameraPath:
    """Read the frames of a camera path, or the photographs of a transforms.json in the order of their names.

    Args:
        path: File to read.
        size: (height, width) of the pictures. None: the size that the camera path states; for transforms.json, a
            square of `side` pixels, as the model sees the photographs.
        side: Side of the model's pictures in pixels.

    Raises:
        DataError: The file cannot be read as either; one line.
    """
    if not path.is_file():
        raise DataError(f"no file {path}; expected a camera path of the viewer, or transforms.json")
    with _naming(path, f"{CAMERA_PATH} or a transforms.json"):
        content = read_json(path)
        if not isinstance(content, dict) or not {"camera_path", "frames"} & content.keys():
            raise JsonError("it has neither a camera_path nor frames")
    if "camera_path" in content:
        with _naming(path, CAMERA_PATH):
            return _with_lenses(_poses_of_path(content), content, size)
    return _of_photographs(path, size, side)


CAMERA_PATH = "a camera path of Nerfstudio (camera_path_*.json)"


@contextmanager
def _naming(path: Path, expected: str) -> Iterator[None]:
    """Turn the errors that a broken file causes into a DataError with the file's name and what was expected."""
    try:
        yield
    except (JsonError, LookupError, TypeError, ValueError, RuntimeError, OverflowError, AttributeError) as error:
        reason = str(error) if isinstance(error, JsonError) else _missing(error)
        raise DataError(f"{path} is not {expected}: {reason}") from error


def _missing(error: Exception) -> str:
    """Describe a failed lookup or conversion in a file."""
    if isinstance(error, KeyError):
        return f"it lacks {error.args[0]}"
    return f"an entry is invalid ({str(error).splitlines()[0] if str(error) else type(error).__name__})"


def _poses_of_path(content: Any) -> Float[Tensor, "n 4 4"]:
    if not isinstance(content, dict):
        raise JsonError("it is not an object")
    entries = content["camera_path"]
    if not isinstance(entries, list) or not entries:
        raise JsonError("its camera_path has no frames")
    return _poses([_entry(entry, place)["camera_to_world"] for place, entry in enumerate(entries)])


def _entry(value: Any, place: int) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise JsonError(f"frame {place} is not an object")
    return value


def _poses(rows: list[Any]) -> Float[Tensor, "n 4 4"]:
    """Convert a file's OpenGL poses to OpenCV. Raises JsonError if one is not a pose that a camera can have."""
    matrices = []
    for place, row in enumerate(rows):
        try:
            matrices.append(torch.tensor(row, dtype=torch.float64).reshape(4, 4))
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise JsonError(f"frame {place} has no pose of 4 x 4 numbers") from error
    poses = torch.stack(matrices)
    if (wrong := bad_pose(poses)) is not None:
        raise JsonError(f"the pose of frame {wrong[0]} {wrong[1]}")
    return flip_axes(poses).float()


def _with_lenses(c2w: Float[Tensor, "n 4 4"], content: dict[str, Any], size: tuple[int, int] | None) -> CameraPath:
    kind = content.get("camera_type", "perspective")
    if str(kind).lower() != "perspective":
        raise JsonError(f"its camera_type is {str(kind)[:40]}, and SceneTok renders perspective cameras only")
    height, width = size or (_pixels(content, "render_height"), _pixels(content, "render_width"))
    fields = [
        number(entry["fov"], f"fov of frame {place}", above=NARROWEST, below=WIDEST)
        for place, entry in enumerate(content["camera_path"])
    ]
    # The field of view spans the picture's height; the square's side is the longer side of the picture.
    focal = [height / 2 / math.tan(math.radians(field) / 2) / max(height, width) for field in fields]
    return CameraPath(c2w, torch.stack([square_lens(one) for one in focal]), (height, width))


def _pixels(values: dict[str, Any], name: str) -> int:
    """Read a side of a picture in pixels. Raises JsonError."""
    return int(number(values.get(name), name, above=0.999, below=LARGEST_SIDE + 1))


def _of_photographs(path: Path, size: tuple[int, int] | None, side: int) -> CameraPath:
    frames = sorted(read_transforms(path).frames, key=lambda frame: frame.file_path)
    pictures = PictureFolder(path.parent)
    poses = torch.from_numpy(np.stack([frame.c2w for frame in frames]))
    poses[:, :3, 3] -= torch.from_numpy(origin_of(poses[:, :3, 3].numpy()))
    lenses = torch.stack([_square_crop(path, frame, pictures, side) for frame in frames])
    if (wrong := bad_lens(lenses)) is not None:
        raise DataError(f"{path}: frame {frames[wrong[0]].file_path} {wrong[1]}")
    if (wrong := bad_pose(poses)) is not None:
        raise DataError(f"{path}: the pose of frame {frames[wrong[0]].file_path} {wrong[1]}")
    distorted = (frame.lens.distortion for frame in frames if any(frame.lens.distortion))
    return CameraPath(flip_axes(poses).float(), lenses, size or (side, side), next(distorted, ()))


def _square_crop(path: Path, frame: FileFrame, pictures: PictureFolder, side: int) -> Float[Tensor, "3 3"]:
    """Return the normalised intrinsics of a photograph's square crop without lens distortion, as encoding uses them."""
    try:
        file = pictures.find(frame.file_path)
        width, height = picture_size(file)
    except DataError as error:  # a path also works without the pictures, if the file states their sizes
        if frame.lens.width is None or frame.lens.height is None:
            raise DataError(
                f"{path}: frame {frame.file_path} has no w and h, and its picture has no readable size: {error}"
            ) from error
        width, height = round(frame.lens.width), round(frame.lens.height)
    else:
        check_proportions(file, (width, height), frame.lens.width, frame.lens.height)
    matrix = frame.lens.matrix(width, height)
    straight = straight_matrix(matrix, opencv_distortion(np.array(frame.lens.distortion)), (width, height))
    straight[:2] /= np.array([[width], [height]])
    return crop_intrinsics(torch.from_numpy(straight).float(), (height, width), (side, side))


def write_camera_path(path: Path, c2w: Float[Tensor, "n 4 4"], fov: float, side: int) -> None:
    """Write a path of square pictures of `side` pixels and `fov` degrees, in the form that ns-render camera-path reads.

    Args:
        path: File to write.
        c2w: Poses, camera-to-world, OpenCV axes.
        fov: Field of view in degrees.
        side: Side of the pictures in pixels.
    """
    focal = 0.5 / math.tan(math.radians(fov) / 2)
    write_path(path, CameraPath(c2w, square_lens(focal).expand(len(c2w), 3, 3), (side, side)))


def write_path(file: Path, path: CameraPath, frame_rate: float = FRAME_RATE) -> None:
    """Write a path in the form that the viewer and ns-render camera-path read. The file is complete or absent.

    The form has a field of view for each frame, but no principal point, which is always in the middle.
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
