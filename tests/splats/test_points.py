"""A plane sweep finds points on surfaces, where the first Gaussians are placed."""

from __future__ import annotations

import math

import pytest
import torch
from support.depth_scenes import WALL, wall_views

from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.depth_geometry import DepthMaps
from scenetok_ns.splats.gaussians import SH_C0
from scenetok_ns.splats.points import KEPT, Points, gaussians_at, surface_points


def test_points_lie_on_the_wall_with_its_colours() -> None:
    frames, cameras, _ = wall_views()
    points = surface_points(frames, cameras)
    assert len(points.means) > 0.6 * 7 * 24 * 24
    off = (points.means[:, 2] / WALL - 1).abs()
    assert off.median() < 0.04 and off.quantile(0.9) < 0.15
    near = off < 0.05
    x, y = points.means[near, 0], points.means[near, 1]
    assert (points.colours[near, 0] - 0.5 - 0.4 * torch.sin(2.1 * x + 1.3 * y)).abs().mean() < 0.05
    torch.testing.assert_close(points.sizes, points.means[:, 2] / 24)


def test_points_do_not_depend_on_the_world() -> None:
    frames, cameras, _ = wall_views()
    world = torch.eye(4)
    angle = torch.tensor(0.7)
    world[:2, :2] = torch.tensor([[angle.cos(), -angle.sin()], [angle.sin(), angle.cos()]])
    world[:3, 3] = torch.tensor([5.0, -2.0, 1.0])
    scaled = cameras.c2w.clone()
    scaled[..., :3, 3] *= 10
    moved = CameraBatch(world @ scaled, cameras.intrinsics)
    here, there = surface_points(frames, cameras), surface_points(frames, moved)
    back = (there.means - world[:3, 3]) @ world[:3, :3] / 10
    # Neighbours are chosen by position and angle together, so a few points may differ.
    assert here.means.shape == there.means.shape
    assert ((back - here.means).norm(dim=1) < 1e-3).float().mean() > 0.95


def test_known_depth_is_used_and_the_uncertain_part_left_out() -> None:
    frames, cameras, depth = wall_views()
    confidence = torch.linspace(0, 1, depth.numel()).reshape(depth.shape)
    points = surface_points(frames, cameras, DepthMaps(depth, confidence))
    assert len(points.means) / depth.numel() == pytest.approx(KEPT, abs=0.01)
    torch.testing.assert_close(points.means[:, 2], torch.full((len(points.means),), WALL))
    torch.testing.assert_close(points.colours[-1], frames[-1, :, -1, -1])


def test_gaussians_start_round_with_the_points_colours() -> None:
    points = Points(torch.rand(50, 3), torch.rand(50, 3), torch.full((50,), 0.2))
    made = gaussians_at(points, limit=20, sh_degree=2)
    assert len(made) == 20 and made.sh_degree == 2
    torch.testing.assert_close(made.scales, torch.full((20, 3), math.log(0.2)))
    chosen = [(points.means == mean).all(dim=1).nonzero().item() for mean in made.means]
    assert len(set(chosen)) == 20
    torch.testing.assert_close(SH_C0 * made.sh0[:, 0] + 0.5, points.colours[chosen])


def test_too_little_to_go_by_is_told() -> None:
    frames, cameras, _ = wall_views(count=1)
    with pytest.raises(ValueError, match="at least 2 frames"):
        surface_points(frames, cameras)
    with pytest.raises(ValueError, match="no point is seen"):
        gaussians_at(Points(torch.empty(0, 3), torch.empty(0, 3), torch.empty(0)), 5, 0)
