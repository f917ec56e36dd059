"""The plane sweep finds surfaces; Gaussians start on them."""

from __future__ import annotations

import math

import pytest
import torch
from support.small_splats import ring_of_cameras, row_of_cameras

from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.splats.gaussians import SH_C0
from scenetok_ns.splats.points import (
    PlaneSweepOptions,
    Points,
    colour_difference,
    depth_steps,
    gaussians_at,
    neighbours,
    surface_points,
)

WALL = 4.0


def wall_views(count: int = 7, size: int = 24) -> tuple[torch.Tensor, CameraBatch]:
    """Cameras in a row that look at a patterned wall at z = WALL."""
    cameras = row_of_cameras(count)
    centres = cameras.c2w[0, :, :2, 3, None, None]
    grid = (torch.arange(size) + 0.5) / size - 0.5
    x = WALL * grid[None, None] + centres[:, 0]
    y = WALL * grid[None, :, None] + centres[:, 1]
    waves = [torch.sin(2.1 * x + 1.3 * y), torch.cos(1.7 * x - 2.2 * y), torch.sin(3.0 * y + 0.4 * x * x)]
    return 0.5 + 0.4 * torch.stack(torch.broadcast_tensors(*waves), dim=1), cameras


def test_points_lie_on_the_wall_with_its_colours() -> None:
    frames, cameras = wall_views()
    points = surface_points(frames, cameras)
    assert len(points.means) > 0.6 * 7 * 24 * 24
    off = (points.means[:, 2] / WALL - 1).abs()
    assert off.median() < 0.04 and off.quantile(0.9) < 0.15
    near = off < 0.05
    x, y = points.means[near, 0], points.means[near, 1]
    assert (points.colours[near, 0] - 0.5 - 0.4 * torch.sin(2.1 * x + 1.3 * y)).abs().mean() < 0.05
    torch.testing.assert_close(points.sizes, points.means[:, 2] / 24)


def test_points_do_not_depend_on_the_world() -> None:
    frames, cameras = wall_views()
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


@pytest.mark.parametrize(("covered", "off"), [(2, 0.0), (3, 0.3)])
def test_half_of_the_neighbours_may_be_blocked(covered: int, off: float) -> None:
    """All frames but `covered` of the 4 neighbours see the colour of the reference; the others something else."""
    cameras = row_of_cameras(5)
    frames = torch.full((5, 3, 8, 8), 0.2)
    frames[1 : 1 + covered] = 0.8
    world = torch.tensor([0.0, 0.3, 8.0])[:, None, None]  # seen by all
    cost = colour_difference(frames[1:], cameras.select([1, 2, 3, 4]), world, frames[0, :, 0, :1])
    torch.testing.assert_close(cost, torch.full((1, 1), off))
    behind = colour_difference(frames[1:], cameras.select([1, 2, 3, 4]), -world, frames[0, :, 0, :1])
    assert behind.isinf().all()


def test_depths_cover_the_scale_of_the_cameras() -> None:
    options = PlaneSweepOptions(nearest=0.5, farthest=8.0, num_depths=5)
    cameras = ring_of_cameras(12, radius=3.0).c2w[0]
    steps = depth_steps(cameras, options)
    ratio = steps[1:] / steps[:-1]
    torch.testing.assert_close(ratio, torch.full((4,), 2.0))
    assert 0.5 * 3 <= steps[0] < 0.5 * 3.2
    torch.testing.assert_close(depth_steps(torch.eye(4).repeat(3, 1, 1), options)[0], torch.tensor(0.5))


def test_neighbours_are_near_but_not_the_nearest() -> None:
    cameras = ring_of_cameras(36).c2w[0]
    found = neighbours(cameras, 6)
    assert found.shape == (36, 6)
    apart = (found - torch.arange(36)[:, None] + 18) % 36 - 18
    assert (apart != 0).all() and apart.abs().max() <= 8 and apart.abs().max() > 3
    assert sorted(neighbours(cameras[:4], 3)[0].tolist()) == [1, 2, 3]


def test_gaussians_start_round_with_the_points_colours() -> None:
    points = Points(torch.rand(50, 3), torch.rand(50, 3), torch.full((50,), 0.2))
    made = gaussians_at(points, limit=20, sh_degree=2)
    assert len(made) == 20 and made.sh_degree == 2
    torch.testing.assert_close(made.scales, torch.full((20, 3), math.log(0.2)))
    chosen = [(points.means == mean).all(dim=1).nonzero().item() for mean in made.means]
    assert len(set(chosen)) == 20
    torch.testing.assert_close(SH_C0 * made.sh0[:, 0] + 0.5, points.colours[chosen])


def test_too_little_to_go_by_is_told() -> None:
    frames, cameras = wall_views(count=1)
    with pytest.raises(ValueError, match="at least 2 frames"):
        surface_points(frames, cameras)
    with pytest.raises(ValueError, match="no point is seen"):
        gaussians_at(Points(torch.empty(0, 3), torch.empty(0, 3), torch.empty(0)), 5, 0)
