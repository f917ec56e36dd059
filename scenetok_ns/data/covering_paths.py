"""Camera paths that see what a few photographs miss: turns on the spot, and walks round the middle.

Poses are camera-to-world with OpenCV axes, in the world of the photographs' cameras.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from scenetok_ns.data.camera_paths import preset_path
from scenetok_ns.data.scenes import DataError

LEAST_VIEWS = 6
"""Minimum number of views of all paths together."""
STANDPOINTS = 2
"""Number of cameras from which a path turns on the spot."""


def covering_paths(c2w: Float[Tensor, "v 4 4"], unit: float, count: int) -> list[Float[Tensor, "n 4 4"]]:
    """Create paths whose views together see most of the scene around the photographs.

    The views of each path are meant to be rendered jointly. With two photographs or more, a third of the views walks
    once round a point one unit ahead of the cameras and looks across it, a third turns on the spot at up to two
    photographs' places, and a third goes through all photographs. With one photograph, half of the views walk and half
    turn.

    Args:
        c2w: Poses of the photographs.
        unit: Size of the scene: the spread of the cameras in the training data, in units of the poses.
        count: Number of views of all paths together, at least 6.

    Raises:
        DataError: There are no cameras, or too few views.
    """
    if not len(c2w) or count < LEAST_VIEWS:
        raise DataError(f"covering paths need a camera and {LEAST_VIEWS} views, got {len(c2w)} and {count}")
    poses = c2w.detach().double()
    through = count // 3 if len(poses) > 1 else 0
    round_middle = (count - through) // 2
    turning = count - through - round_middle
    places = far_apart(poses, min(STANDPOINTS, len(poses), max(turning // 3, 1)))
    shares = [turning // len(places) + (i < turning % len(places)) for i in range(len(places))]
    paths = [_walk(poses, unit, round_middle)]
    paths += [_turn(poses[place], share) for place, share in zip(places, shares, strict=True)]
    if through:
        paths.append(preset_path("interpolate", poses, through))
    return [path.to(c2w.dtype) for path in paths]


def _walk(poses: Float[Tensor, "v 4 4"], unit: float, count: int) -> Float[Tensor, "count 4 4"]:
    """Walk round the point that lies one unit ahead of the cameras, at their median height, looking across it."""
    positions, forward = poses[:, :3, 3], poses[:, :3, 2]
    up = _up(poses)
    middle = (positions + unit * _level(forward, up)).mean(dim=0)
    first = poses[0]
    ahead = _level(first[None, :3, 2], up)[0]
    tilt = torch.asin((forward @ up).clamp(-1, 1)).median()
    height = ((positions - middle) @ up).median()
    radius = _flat(positions - middle, up).norm(dim=1).median()
    angle = torch.arange(count, dtype=poses.dtype, device=poses.device) / count * 2 * math.pi
    side = torch.linalg.cross(up, ahead)
    look = angle.cos()[:, None] * ahead + angle.sin()[:, None] * side
    return _looking(middle - radius * look + height * up, tilt.cos() * look + tilt.sin() * up, up)


def _turn(pose: Float[Tensor, "4 4"], count: int) -> Float[Tensor, "count 4 4"]:
    """Turn once round on the spot about the camera's own vertical axis, starting with its viewing direction."""
    angle = torch.arange(count, dtype=pose.dtype, device=pose.device) / count * 2 * math.pi
    path = pose.repeat(count, 1, 1)
    right, ahead = pose[:3, 0], pose[:3, 2]
    path[:, :3, 2] = angle.cos()[:, None] * ahead + angle.sin()[:, None] * right
    path[:, :3, 0] = angle.cos()[:, None] * right - angle.sin()[:, None] * ahead
    return path


def far_apart(poses: Float[Tensor, "v 4 4"], count: int) -> list[int]:
    """Choose cameras that are far from one another: the middle one, then always the farthest from those chosen.

    Returns their indices.
    """
    chosen = [len(poses) // 2]
    while len(chosen) < count:
        distance = torch.cdist(poses[:, :3, 3], poses[chosen, :3, 3]).amin(dim=1)
        distance[chosen] = -1.0
        chosen.append(int(distance.argmax()))
    return chosen


def _up(poses: Float[Tensor, "v 4 4"]) -> Float[Tensor, "3"]:
    up = -poses[:, :3, 1].mean(dim=0)
    return up / up.norm() if up.norm() > 1e-3 else -poses[0, :3, 1]


def _flat(vectors: Float[Tensor, "n 3"], up: Float[Tensor, "3"]) -> Float[Tensor, "n 3"]:
    return vectors - (vectors @ up)[:, None] * up


def _level(vectors: Float[Tensor, "n 3"], up: Float[Tensor, "3"]) -> Float[Tensor, "n 3"]:
    """Unit vectors at right angles to `up`; for vectors along `up`, any direction."""
    flat = _flat(vectors, up)
    spare = torch.zeros_like(up)
    spare[int(up.abs().argmin())] = 1.0
    flat = torch.where(flat.norm(dim=1, keepdim=True) > 1e-3, flat, _flat(spare[None], up))
    return flat / flat.norm(dim=1, keepdim=True)


def _looking(
    positions: Float[Tensor, "n 3"], forward: Float[Tensor, "n 3"], up: Float[Tensor, "3"]
) -> Float[Tensor, "n 4 4"]:
    right = torch.linalg.cross(forward, up.expand_as(forward))
    right = right / right.norm(dim=1, keepdim=True)
    poses = torch.eye(4, dtype=positions.dtype, device=positions.device).repeat(len(positions), 1, 1)
    poses[:, :3] = torch.stack([right, torch.linalg.cross(forward, right), forward, positions], dim=-1)
    return poses
