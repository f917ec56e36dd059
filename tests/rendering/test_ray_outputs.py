"""Outputs for exporters: rays through pixels end on the surfaces; other rays are refused or transparent."""

from __future__ import annotations

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from support.depth_scenes import STEP, WALL, wall_views

from scenetok_ns.data.poses import flip_axes
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.depth_geometry import DepthMaps
from scenetok_ns.rendering.ray_outputs import RayOutputs, random_rays
from scenetok_ns.tools.errors import UsageError

SIZE = 24


def outputs(confidence: float = 0.9) -> tuple[RayOutputs, list[CameraBatch]]:
    frames, cameras, depth = wall_views(count=3, size=SIZE, step=True)
    asked: list[CameraBatch] = []

    def render(batch: CameraBatch) -> tuple[torch.Tensor, DepthMaps]:
        asked.append(batch)
        return frames, DepthMaps(depth, torch.full_like(depth, confidence))

    lens = cameras.intrinsics[0] * SIZE
    stock = Cameras(
        flip_axes(cameras.c2w[0])[:, :3], lens[:, 0, 0], lens[:, 1, 1], lens[:, 0, 2], lens[:, 1, 2], SIZE, SIZE
    )
    return RayOutputs(stock, render), asked


def test_points_of_rays_lie_on_the_surfaces() -> None:
    rays_of, asked = outputs()
    rays = random_rays(rays_of.cameras, 500)
    found = rays_of.of_rays(rays)
    points = rays.origins + rays.directions * found["depth"]
    off = torch.minimum((points[:, 2] - WALL).abs(), (points[:, 2] - STEP).abs())
    assert off.max() < 1e-3 and {name: tuple(value.shape) for name, value in found.items()} == {
        "rgb": (500, 3), "depth": (500, 1), "accumulation": (500, 1), "normals": (500, 3),
    }  # fmt: skip
    normals = 2 * found["normals"] - 1
    assert ((normals - torch.tensor([0.0, 0.0, -1.0])).norm(dim=1) < 1e-3).float().mean() > 0.8
    rays_of.of_rays(rays)
    assert len(asked) == 1  # rendered once


def test_a_whole_picture_has_the_depth_of_its_camera() -> None:
    rays_of, _ = outputs()
    rays = rays_of.cameras.generate_rays(camera_indices=1)
    found = rays_of.of_picture(rays)
    points = rays.origins + rays.directions * found["depth"]
    off = torch.minimum((points[..., 2] - WALL).abs(), (points[..., 2] - STEP).abs())
    assert found["rgb"].shape == (SIZE, SIZE, 3) and off.max() < 1e-3


def test_other_rays_are_transparent_or_refused() -> None:
    rays_of, asked = outputs()
    ones = torch.ones(2, 3)
    other = RayBundle(ones, ones, ones[:, :1], camera_indices=torch.zeros(2, 1), metadata={})
    assert (rays_of.of_rays(other)["accumulation"] == 0).all() and not asked
    rays = rays_of.cameras.generate_rays(camera_indices=1)
    rays.origins = rays.origins + 1
    with pytest.raises(UsageError, match="renders whole pictures"):
        rays_of.of_picture(rays)


def test_nothing_certain_is_an_error_and_no_endless_export() -> None:
    rays_of, _ = outputs(confidence=0.2)
    with pytest.raises(UsageError, match="certain enough"):
        rays_of.of_rays(random_rays(rays_of.cameras, 5))
