"""Depth maps become points and back, hidden points are not seen, and the depths of two views are compared."""

from __future__ import annotations

import torch
from support.depth_scenes import STEP, WALL, wall_views

from scenetok_ns.models.depth_geometry import (
    disagreement,
    inside_picture,
    normals_of,
    project,
    ray_lengths,
    seen_from,
    unproject,
)


def test_points_lie_on_the_planes_and_come_back_to_their_pixels() -> None:
    _, cameras, depth = wall_views(size=16, step=True)
    points = unproject(depth, cameras)
    off = torch.minimum((points[:, 2] - WALL).abs(), (points[:, 2] - STEP).abs())
    assert off.max() < 1e-4
    where, again = project(points[2], cameras)
    torch.testing.assert_close(again[2], depth[2, 0])
    ticks = (torch.arange(16) + 0.5) / 16
    torch.testing.assert_close(where[2], torch.stack(torch.meshgrid(ticks, ticks, indexing="xy")), atol=1e-5, rtol=0)
    assert inside_picture(where, again)[2].all()


def test_distance_along_the_ray_is_longer_than_depth_by_the_angle() -> None:
    _, cameras, depth = wall_views(size=16)
    points = unproject(depth, cameras) - cameras.c2w[0, :, :3, 3, None, None]
    distance = torch.linalg.vector_norm(points, dim=1, keepdim=True)
    torch.testing.assert_close(depth * ray_lengths(cameras.intrinsics[0], (16, 16)), distance)


def test_what_is_hidden_or_outside_is_not_seen() -> None:
    """Hidden points, and points outside the pictures or behind the cameras, are not seen. Two views together see what
    either of them sees."""
    _, cameras, depth = wall_views(count=5, size=32, step=True)
    points = unproject(depth, cameras)
    own = cameras.select([2])
    assert seen_from(points[2], own, depth[2:3]).all()
    behind = points[2].clone()
    behind[2] += 1.0
    # Points that are moved back along z are hidden by the surface that they were on.
    assert not seen_from(behind, own, depth[2:3]).any() and seen_from(behind, own).float().mean() > 0.5
    assert not seen_from(-points[2], own).any()
    both = seen_from(points[2], cameras.select([0, 4]), depth[[0, 4]])
    left, right = (seen_from(points[2], cameras.select([i]), depth[i : i + 1]) for i in (0, 4))
    assert torch.equal(both, left | right)


def test_exact_depths_agree_and_wrong_ones_do_not() -> None:
    _, cameras, depth = wall_views(size=32)
    difference, counts = disagreement(depth, cameras, 1, 3)
    assert counts.float().mean() > 0.5 and difference[counts].max() < 1e-4
    wrong = depth.clone()
    wrong[3] *= 1.1
    difference, counts = disagreement(wrong, cameras, 1, 3)
    torch.testing.assert_close(difference[counts].median(), torch.tensor(1 - 1 / 1.1), atol=1e-3, rtol=0)


def test_normals_face_the_camera() -> None:
    _, cameras, depth = wall_views(size=16)
    normals = normals_of(depth, cameras)
    torch.testing.assert_close(
        normals, torch.tensor([0.0, 0.0, -1.0])[:, None, None].expand_as(normals), atol=1e-4, rtol=0
    )
