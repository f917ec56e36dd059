"""Paths that see what a few photographs miss."""

from __future__ import annotations

import math

import pytest
import torch
from support.small_splats import ring_of_cameras

from scenetok_ns.data.covering_paths import covering_paths, far_apart
from scenetok_ns.data.scenes import DataError
from scenetok_ns.models.cameras import are_rigid


@pytest.mark.parametrize(("photographs", "count"), [(1, 6), (1, 25), (2, 24), (5, 31)])
def test_views_are_poses_that_look_all_round_from_near_the_photographs(photographs: int, count: int) -> None:
    c2w = ring_of_cameras(photographs, radius=2.0).c2w[0]
    paths = covering_paths(c2w, 2.0, count)
    poses = torch.cat(paths)
    assert len(poses) == count and poses.dtype == c2w.dtype and are_rigid(poses).all()
    azimuth = torch.atan2(poses[:, 1, 2], poses[:, 0, 2]).sort().values
    gaps = torch.cat([azimuth[1:], azimuth[:1] + 2 * math.pi]) - azimuth
    assert gaps.max() < math.radians(125)
    assert torch.cdist(poses[:, :3, 3], c2w[:, :3, 3]).amin(dim=1).max() < 5.0


def test_a_walk_looks_across_the_place_ahead_and_a_turn_stays_where_the_photograph_was_taken() -> None:
    c2w = ring_of_cameras(1, radius=2.0).c2w[0]
    walk, turn = covering_paths(c2w, 2.0, 16)
    torch.testing.assert_close(turn[0], c2w[0])
    torch.testing.assert_close(turn[:, :3, 3], c2w[:, :3, 3].expand(8, 3))
    ahead = walk[:, :3, 3] + 2.0 * walk[:, :3, 2] / walk[:, :2, 2].norm(dim=1, keepdim=True)
    assert (ahead[:, :2] - ahead[:1, :2]).abs().max() < 1e-4  # all look across one vertical line
    assert walk[:, 2, 3].std() < 1e-5


def test_paths_move_with_the_world() -> None:
    c2w = ring_of_cameras(4, radius=2.0).c2w[0]
    moved = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0))).Q
    world = torch.eye(4)
    world[:3, :3], world[:3, 3] = moved * torch.linalg.det(moved), torch.tensor([1.0, 2.0, 3.0])
    there = torch.cat(covering_paths(world @ c2w, 2.0, 18))
    torch.testing.assert_close(there, world @ torch.cat(covering_paths(c2w, 2.0, 18)), rtol=1e-3, atol=1e-3)


def test_cameras_far_apart_are_the_middle_one_and_the_farthest() -> None:
    c2w = torch.eye(4).repeat(5, 1, 1)
    c2w[:, 0, 3] = torch.tensor([0.0, 1.0, 2.0, 3.0, 9.0])
    assert far_apart(c2w, 3) == [2, 4, 0]
    assert sorted(far_apart(c2w, 5)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("photographs", "count"), [(0, 24), (3, 5)])
def test_no_camera_or_too_few_views_are_refused(photographs: int, count: int) -> None:
    with pytest.raises(DataError, match=f"got {photographs} and {count}"):
        covering_paths(torch.eye(4).repeat(photographs, 1, 1), 1.0, count)
