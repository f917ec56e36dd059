"""Camera-path files of Nerfstudio's viewer and ns-render, as poses, and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from scenetok_ns.camera_conversion import flip_axes
from scenetok_ns.data.scenes import DataError

RIGID_TOLERANCE = 1e-2
"""Path files hold interpolated poses with few digits."""
SECONDS_PER_POSE = 1 / 24


def read_camera_path(path: Path) -> Float[Tensor, "n 4 4"]:
    """Camera-to-world poses (OpenCV axes) of all frames of a path. Raises DataError, in one line."""
    if not path.is_file():
        raise DataError(f"no camera path at {path}; the viewer's render tab makes them")
    try:
        rows = [entry["camera_to_world"] for entry in json.loads(path.read_text("utf8"))["camera_path"]]
        poses = torch.tensor(rows, dtype=torch.float64).reshape(-1, 4, 4)
    except (ValueError, KeyError, TypeError, RuntimeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is no camera path of Nerfstudio (camera_path_*.json): {error!r}") from error
    if not len(poses):
        raise DataError(f"the camera path {path} has no frames")
    rotation = poses[:, :3, :3]
    deviation = (rotation.mT @ rotation - torch.eye(3, dtype=torch.float64)).abs().amax(dim=(1, 2))
    wrong = ~(deviation <= RIGID_TOLERANCE) | ~poses.flatten(1).isfinite().all(1)
    if wrong.any():
        raise DataError(f"{path}: frame {int(wrong.nonzero()[0])} is no camera pose (a rotation and a position)")
    return flip_axes(poses).float()


def write_camera_path(path: Path, c2w: Float[Tensor, "n 4 4"], fov: float, side: int) -> None:
    """Square pictures of `side` pixels and `fov` degrees along a path, in the form that ns-render camera-path reads."""
    frames: list[dict[str, Any]] = [
        {"camera_to_world": pose.flatten().tolist(), "fov": fov, "aspect": 1.0} for pose in flip_axes(c2w)
    ]
    content = {
        "camera_type": "perspective",
        "render_height": side,
        "render_width": side,
        "seconds": len(frames) * SECONDS_PER_POSE,
        "keyframes": [],
        "camera_path": frames,
    }
    path.write_text(json.dumps(content), "utf8")
