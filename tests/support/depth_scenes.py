"""Scenes of textured planes whose depth is known exactly."""

from __future__ import annotations

import torch
from support.small_splats import row_of_cameras
from torch import Tensor

from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.depth_geometry import axis_rays

WALL, STEP = 4.0, 2.5


def texture(x: Tensor, y: Tensor) -> Tensor:
    waves = [torch.sin(2.1 * x + 1.3 * y), torch.cos(1.7 * x - 2.2 * y), torch.sin(3.0 * y + 0.4 * x * x)]
    return 0.5 + 0.4 * torch.stack(torch.broadcast_tensors(*waves), dim=1)


def wall_views(
    count: int = 7, size: int = 24, step: bool = False, flat: float = 0.0
) -> tuple[Tensor, CameraBatch, Tensor]:
    """Cameras in a row that look at a patterned wall at z = WALL; with a step, its part of positive x is at z = STEP.
    The pattern has a grey square of half side `flat` around x = y = 0.

    Returns frames, cameras and exact depths [count, 1, size, size].
    """
    cameras = row_of_cameras(count)
    rays = axis_rays(cameras, (size, size))
    origin = cameras.c2w[0, :, :3, 3, None, None]
    far = (WALL - origin[:, 2]) / rays[:, 2]
    near = (STEP - origin[:, 2]) / rays[:, 2]
    on_step = (origin + near[:, None] * rays)[:, 0] > 0
    depth = torch.where(on_step, near, far) if step else far
    point = origin + depth[:, None] * rays
    grey = (point[:, :2].abs() < flat).all(dim=1, keepdim=True)
    return torch.where(grey, 0.5, texture(point[:, 0], point[:, 1])), cameras, depth[:, None]
