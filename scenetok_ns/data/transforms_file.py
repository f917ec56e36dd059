"""Read transforms.json as Nerfstudio and instant-ngp write it, for captures, data sets and camera paths."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from scenetok_ns.data.scenes import DataError
from scenetok_ns.tools import json_files

TRANSFORMS = "transforms.json"
PERSPECTIVE = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "RADIAL", "SIMPLE_RADIAL", "FULL_OPENCV", "PERSPECTIVE")
"""Supported camera models: perspective, with the distortion below."""
DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")
"""Distortion parameters in Nerfstudio's order, which is also the order of `distortion_params`."""
FOCAL = ("fl_x", "fl_y", "camera_angle_x", "camera_angle_y")
LARGEST = 1_000_000
"""Largest size and focal length in pixels."""
GEOREFERENCED = 100.0
"""Positions are moved if they are farther from zero than about this number times the spread of the cameras."""


@dataclass(frozen=True, eq=False)
class FileLens:
    """Intrinsics of a frame as stated in the file. None: not stated."""

    width: float | None
    height: float | None
    """Width and height in pixels of the picture that the other values refer to."""
    fl_x: float | None
    fl_y: float | None
    angle_x: float | None
    """Horizontal field of view in radians, used if there is no focal length."""
    cx: float | None
    cy: float | None
    distortion: tuple[float, ...]
    """Distortion parameters in the order of DISTORTION."""

    def matrix(self, width: int, height: int) -> np.ndarray:
        """Intrinsics [3, 3] in pixels, scaled from the file's size to a picture of `width` x `height` pixels."""
        across, down = width / (self.width or width), height / (self.height or height)
        if self.fl_x is not None:
            fl_x, fl_y = self.fl_x, self.fl_x if self.fl_y is None else self.fl_y
        else:
            fl_x = fl_y = (self.width or width) / 2 / math.tan((self.angle_x or 0.0) / 2)
        cx = (self.width or width) / 2 if self.cx is None else self.cx
        cy = (self.height or height) / 2 if self.cy is None else self.cy
        return np.array([[fl_x * across, 0.0, cx * across], [0.0, fl_y * down, cy * down], [0.0, 0.0, 1.0]])


@dataclass(frozen=True, eq=False)
class FileFrame:
    """A frame of a transforms.json."""

    file_path: str
    """Path of the picture as stated in the file, with forward slashes."""
    c2w: np.ndarray
    """Camera-to-world [4, 4], OpenGL axes, float64, in the file's world."""
    lens: FileLens
    depth_file_path: str | None = None
    """Path of the frame's depth map; None: it has none."""

    @property
    def name(self) -> str:
        """File name without folder and suffix."""
        return PurePosixPath(self.file_path).stem


@dataclass(frozen=True, eq=False)
class TransformsFile:
    """Content of a transforms.json."""

    path: Path
    frames: tuple[FileFrame, ...]
    """Frames in the order of the file."""
    splits: Mapping[str, tuple[str, ...]]
    """Split ("train", "val", "test") -> file paths, for the splits that the file lists."""


SPLIT_LISTS = ("train_filenames", "val_filenames", "test_filenames")


def read_transforms(path: Path) -> TransformsFile:
    """Read a transforms.json.

    Values of a frame override the values for all frames. A missing principal point is the middle of the picture.
    Matrices with three rows, a byte order mark and backslashes are accepted.

    Raises:
        DataError: The file is not JSON or has no frames, numbers are missing or not finite, or a camera is not a
            perspective camera; one line, which names the frame.
    """
    content = read_json(path)
    frames = content.get("frames")
    if not isinstance(frames, list) or not frames:
        raise DataError(f"{path} has no frames: expected an object with a list `frames` of pictures and poses")
    for name in SPLIT_LISTS:
        if not isinstance(content.get(name, []), list):
            raise DataError(f"{path}: {name} is a {type(content[name]).__name__}, expected a list of file paths")
    return TransformsFile(
        path,
        tuple(frame_of(path, number, frame, content) for number, frame in enumerate(frames)),
        {
            split: tuple(_slashes(str(name)) for name in content[f"{split}_filenames"])
            for split in ("train", "val", "test")
            if f"{split}_filenames" in content
        },
    )


def read_json(path: Path) -> dict[str, Any]:
    """Read the object in a JSON file, with or without a byte order mark. Raises DataError."""
    try:
        content = json_files.read_json(path)
    except json_files.JsonError as error:
        raise DataError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds a {type(content).__name__}: expected an object with a list `frames`")
    return content


def origin_of(positions: np.ndarray) -> np.ndarray:
    """Origin to subtract from camera positions [v, 3] before they become float32: zero, except for georeferenced ones.

    Map coordinates in metres have seven digits before the point, which float32 stores only to half a metre. The origin
    is the middle of the cameras, rounded to a multiple of a power of ten near GEOREFERENCED times their spread, so that
    different files of one place get the same origin.
    """
    middle = np.median(positions, axis=0)
    spread = float(np.median(np.linalg.norm(positions - middle, axis=1)))
    if not spread > 0 or not np.isfinite(spread):
        return np.zeros(3)
    step = 10.0 ** math.ceil(math.log10(GEOREFERENCED * spread))
    return np.round(middle / step) * step + 0.0


def frame_of(path: Path | str, number: int, frame: Any, content: Mapping[str, Any]) -> FileFrame:
    """Read a frame from its entry and the values for all frames. `path` begins messages. Raises DataError."""
    where = f"{path}: frame {number}"
    if not isinstance(frame, Mapping):
        raise DataError(f"{where} is a {type(frame).__name__}: expected an object with file_path and transform_matrix")
    if not isinstance(frame.get("file_path"), str) or not frame["file_path"]:
        raise DataError(f"{where} has no file_path")
    file_path = _slashes(frame["file_path"])
    where = f"{path}: frame {file_path}"
    depth = frame.get("depth_file_path")
    pose, lens = _pose(where, frame.get("transform_matrix")), lens_of(where, frame, content)
    return FileFrame(file_path, pose, lens, _slashes(depth) if isinstance(depth, str) and depth else None)


def _pose(where: str, rows: Any) -> np.ndarray:
    try:
        matrix = np.array(rows, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{where}: transform_matrix is not a matrix of numbers") from error
    if matrix.shape == (3, 4):
        matrix = np.vstack([matrix, [0.0, 0.0, 0.0, 1.0]])
    if matrix.shape != (4, 4):
        raise DataError(f"{where}: transform_matrix has shape {list(matrix.shape)}, expected 4 x 4 or 3 x 4")
    if not np.isfinite(matrix).all():
        raise DataError(
            f"{where}: transform_matrix is not finite (NaN or infinite); remove the frame, or correct its pose"
        )
    return matrix


def lens_of(where: str, frame: Mapping[str, Any], content: Mapping[str, Any]) -> FileLens:
    """Read the lens of a frame from its values and those for all frames. `where` begins messages. Raises DataError."""
    for values in (content, frame):
        model = str(values.get("camera_model", "OPENCV")).upper()
        if model not in PERSPECTIVE or values.get("is_fisheye"):
            kind = "fisheye (is_fisheye)" if values.get("is_fisheye") else model
            raise DataError(f"{where}: SceneTok reads perspective cameras only, got {kind}")
    # Focal lengths and angles describe the same thing, so any value of the frame replaces all values of the file.
    focal = {name: _number(where, frame, name) for name in FOCAL}
    for_all = {name: _number(where, content, name) for name in FOCAL}
    if focal["fl_x"] is None and focal["fl_y"] is not None:
        focal["fl_x"] = focal["fl_y"] if for_all["fl_x"] is None else for_all["fl_x"]
    if all(value is None for value in focal.values()):
        focal = for_all
        if focal["fl_x"] is None:
            focal["fl_x"] = focal["fl_y"]
    elif focal["fl_y"] is None and focal["fl_x"] is not None and for_all["fl_x"] and for_all["fl_y"]:
        focal["fl_y"] = focal["fl_x"] * for_all["fl_y"] / for_all["fl_x"]  # pixels keep their shape
    size = {name: _number(where, {**content, **_given(frame, (name,))}, name) for name in ("w", "h", "cx", "cy")}
    angle = focal["camera_angle_x"]
    if focal["fl_x"] is None and angle is None:
        raise DataError(f"{where} has no focal length (fl_x, or camera_angle_x), nor has the file for all frames")
    for name, value in (("fl_x", focal["fl_x"]), ("fl_y", focal["fl_y"]), ("w", size["w"]), ("h", size["h"])):
        if value is not None and not 0 < value <= LARGEST:
            raise DataError(f"{where}: {name} must be above 0 and at most {LARGEST:,}, got {value:g}")
    if focal["fl_x"] is None and not 0 < (angle or 0) < math.pi:
        raise DataError(f"{where}: camera_angle_x must be between 0 and pi (radians), got {angle:g}")
    distortion = _distortion(where, frame, content)
    return FileLens(size["w"], size["h"], focal["fl_x"], focal["fl_y"], angle, size["cx"], size["cy"], distortion)


def _distortion(where: str, frame: Mapping[str, Any], content: Mapping[str, Any]) -> tuple[float, ...]:
    names = (*DISTORTION, "k5", "k6")
    if "distortion_params" in frame or (not _given(frame, names) and "distortion_params" in content):
        values = frame.get("distortion_params", content.get("distortion_params"))
        if not isinstance(values, Sequence) or len(values) != len(DISTORTION):
            raise DataError(f"{where}: distortion_params must be {len(DISTORTION)} numbers ({', '.join(DISTORTION)})")
        chosen: Mapping[str, Any] = dict(zip(DISTORTION, values, strict=True))
    else:
        chosen = {**content, **_given(frame, names)}
    if any(_number(where, chosen, name) for name in ("k4", "k5", "k6")):
        raise DataError(f"{where}: lens distortion with k4, k5 or k6 cannot be undone")
    return tuple(_number(where, chosen, name) or 0.0 for name in DISTORTION)


def _given(values: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: values[name] for name in names if name in values}


def _number(where: str, values: Mapping[str, Any], name: str) -> float | None:
    value = values.get(name)
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{where}: {name} is not a number: {str(value)[:40]!r}") from error
    if not math.isfinite(number):
        raise DataError(f"{where}: {name} is not finite, got {number}")
    return number


def _slashes(path: str) -> str:
    return path.replace("\\", "/")
