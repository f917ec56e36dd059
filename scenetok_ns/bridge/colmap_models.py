"""Read the frames of a COLMAP model, binary or text."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from nerfstudio.data.utils import colmap_parsing_utils as colmap

from scenetok_ns.data.scenes import DataError
from scenetok_ns.data.transforms_file import FileFrame, lens_of

PARAMETERS = {
    "SIMPLE_PINHOLE": ("f", "cx", "cy"),
    "PINHOLE": ("fl_x", "fl_y", "cx", "cy"),
    "SIMPLE_RADIAL": ("f", "cx", "cy", "k1"),
    "RADIAL": ("f", "cx", "cy", "k1", "k2"),
    "OPENCV": ("fl_x", "fl_y", "cx", "cy", "k1", "k2", "p1", "p2"),
    "FULL_OPENCV": ("fl_x", "fl_y", "cx", "cy", "k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6"),
}
"""Perspective camera model of COLMAP -> names of its parameters in transforms.json; f stands for fl_x and fl_y."""


def read_colmap_model(model: Path) -> list[FileFrame]:
    """Read the frames of a model in the order of their image numbers.

    `file_path` is the picture's name, and poses are OpenGL camera-to-world. Raises DataError if the model is damaged,
    or a camera is not perspective.
    """
    try:
        if (model / "cameras.txt").is_file():
            cameras = colmap.read_cameras_text(model / "cameras.txt")
            images = _read_images_text(model / "images.txt")
        else:
            cameras = colmap.read_cameras_binary(model / "cameras.bin")
            binary = colmap.read_images_binary(model / "images.bin")
            images = {number: (one.name, one.camera_id, one.qvec, one.tvec) for number, one in binary.items()}
    # Damaged files raise various errors: struct.error, EOFError, IndexError, UnicodeDecodeError, ...
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"{model} cannot be read as a COLMAP model: {reason}") from error
    if not images:
        raise DataError(f"{model}: this COLMAP model has no pictures")
    frames = []
    for number in sorted(images):
        name, camera, quaternion, translation = images[number]
        where = f"{model}: picture {name}"
        if camera not in cameras:
            raise DataError(f"{where} has camera {camera}, which is not in the model")
        w2c = np.eye(4)
        w2c[:3, :3], w2c[:3, 3] = colmap.qvec2rotmat(quaternion), translation
        if not np.isfinite(w2c).all():
            raise DataError(f"{where}: its pose is not finite (NaN or infinite); remove it from the model")
        c2w = np.linalg.inv(w2c) @ np.diag([1.0, -1.0, -1.0, 1.0])
        frames.append(FileFrame(name, c2w, lens_of(where, _lens(cameras[camera]), {})))
    return frames


def count_pictures(model: Path) -> int:
    """Count the pictures of a model without reading its points. Raises DataError if the file is damaged."""
    try:
        if (model / "images.txt").is_file():
            return len(_read_images_text(model / "images.txt"))
        with (model / "images.bin").open("rb") as file:
            return int(struct.unpack("<Q", file.read(8))[0])
    except (OSError, ValueError, struct.error) as error:
        raise DataError(f"{model} cannot be read as a COLMAP model: {error}") from error


def _lens(camera: Any) -> dict[str, Any]:
    """Convert a camera to the entries of a transforms.json."""
    names = PARAMETERS.get(camera.model, ())
    values: dict[str, Any] = dict(zip(names, map(float, camera.params), strict=False))
    if "f" in values:
        values["fl_x"] = values["fl_y"] = values.pop("f")
    return {"camera_model": camera.model, "w": camera.width, "h": camera.height, **values}


def _read_images_text(file: Path) -> dict[int, tuple[str, int, np.ndarray, np.ndarray]]:
    """Read images.txt: number -> name, camera, quaternion, translation. Names may contain spaces."""
    images = {}
    lines = iter(file.read_text("utf8").splitlines())
    for line in lines:
        if not line.strip() or line.startswith("#"):
            continue
        number, *pose, camera, name = line.strip().split(maxsplit=9)
        values = np.array([float(value) for value in pose])
        images[int(number)] = (name, int(camera), values[:4], values[4:])
        next(lines, None)  # the line of its points, which may be empty
    return images
