"""Poses for scene generation: anchors along a path, and default paths."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from scenetok_ns.data.path_names import Trajectory
from scenetok_ns.data.poses import interpolate_poses

TRAJECTORY_POSES = 48


def anchors_along(path: Float[Tensor, "k 4 4"], count: int) -> Float[Tensor, "n 4 4"]:
    """Choose `count` poses evenly along a path, both ends included, as the published notebook does.

    A path with fewer poses is interpolated; a path of one pose is returned unchanged.
    """
    if 1 < len(path) < count:
        path = interpolate_poses(path, count)
    return path if len(path) == 1 else path[torch.linspace(0, len(path) - 1, count).long()]


def home_pose() -> Float[Tensor, "4 4"]:
    """Pose of a single photograph: at the origin, level, looking along +y, z up; camera-to-world, OpenCV axes."""
    pose = torch.zeros(4, 4)
    pose[0, 0], pose[2, 1], pose[1, 2], pose[3, 3] = 1.0, -1.0, 1.0, 1.0
    return pose


def trajectory(name: Trajectory, num_poses: int = TRAJECTORY_POSES) -> Float[Tensor, "num_poses 4 4"]:
    """Create a path that starts at `home_pose`. Indoor scenes of RealEstate10K are a few of its units wide.

    forward: 1 unit straight ahead. sideways: 1 unit to the right, looking ahead. turn: a walk along a quarter of a
    circle of radius 1 to the right, looking in the direction of travel.
    """
    made = {"forward": _forward, "sideways": _sideways, "turn": _turn}[name]
    return torch.stack([home_pose() @ made(along) for along in torch.linspace(0, 1, num_poses).tolist()])


def _moved(x: float, z: float, angle: float = 0.0) -> Float[Tensor, "4 4"]:
    """Pose relative to the first camera: x to the right, z ahead, turned by `angle` (radians) to the right."""
    pose = torch.eye(4)
    pose[0, 3], pose[2, 3] = x, z
    pose[0, 0] = pose[2, 2] = math.cos(angle)
    pose[0, 2], pose[2, 0] = math.sin(angle), -math.sin(angle)
    return pose


def _forward(along: float) -> Tensor:
    return _moved(0.0, along)


def _sideways(along: float) -> Tensor:
    return _moved(along, 0.0)


def _turn(along: float) -> Tensor:
    angle = along * math.pi / 2
    return _moved(1 - math.cos(angle), math.sin(angle), angle)
