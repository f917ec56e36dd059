from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from scenetok_ns.data.poses import (
    cameras_from_rows,
    farthest_points,
    in_one_place,
    interpolate_poses,
    pose_distances,
    stray_cameras,
)


def turned(*angles: float) -> Tensor:
    """Poses at the origin, turned about the vertical axis."""
    poses = torch.eye(4).repeat(len(angles), 1, 1)
    for pose, angle in zip(poses, angles, strict=True):
        pose[0, 0] = pose[2, 2] = math.cos(angle)
        pose[0, 2], pose[2, 0] = math.sin(angle), -math.sin(angle)
    return poses


def standing_at(*positions: float) -> Tensor:
    poses = torch.eye(4).repeat(len(positions), 1, 1)
    poses[:, 0, 3] = torch.tensor(positions)
    return poses


def test_stray_cameras_are_few_and_far() -> None:
    row = [float(number) for number in range(19)]
    assert stray_cameras(standing_at(*row, 1000.0)).nonzero().flatten().tolist() == [19]
    assert not stray_cameras(standing_at(*row, 40.0)).any()  # a step aside
    assert not stray_cameras(standing_at(*row[:15], *[1000.0 + number for number in range(5)])).any()  # a second place
    assert not stray_cameras(standing_at(*[0.0] * 19, 1.0)).any()  # mostly on a tripod
    two = standing_at(0.0, 0.5)
    two[:, 1, 3] = torch.tensor([0.1, 0.0])  # the coordinate-wise median is at neither
    assert not stray_cameras(two).any() and not stray_cameras(standing_at(0.0, 0.5, 10.0)).any()
    assert not stray_cameras(standing_at(0.0)).any() and not stray_cameras(standing_at(0.0, 5.0)).any()


def test_one_place_is_one_in_any_unit() -> None:
    assert in_one_place(standing_at(0.0, 0.0)) and in_one_place(standing_at(3.0, 3.0 + 1e-7))
    assert not in_one_place(standing_at(0.0, 1e-12)) and not in_one_place(standing_at(1e9, 1.1e9))


@settings(max_examples=25, deadline=None)
@given(k=st.integers(2, 6), more=st.integers(0, 20), seed=st.integers(0, 1000))
def test_a_path_passes_through_its_keys_and_stays_rigid(k: int, more: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rotations, _ = torch.linalg.qr(torch.randn(k, 3, 3, generator=generator))
    keys = torch.eye(4).repeat(k, 1, 1)
    keys[:, :3, :3] = rotations * torch.linalg.det(rotations)[:, None, None]
    keys[:, :3, 3] = torch.randn(k, 3, generator=generator)
    path = interpolate_poses(keys, k + more)
    assert len(path) == 2 * k + more - 1
    distance = (path[:, None] - keys[None]).abs().amax(dim=(-2, -1))
    at = distance.argmin(0)
    assert distance.amin(0).max() < 1e-5 and (at.diff() > 0).all() and at[0] == 0 and at[-1] == len(path) - 1
    assert int(at.diff().max() - at.diff().min()) <= 1
    assert torch.allclose(path[:, :3, :3].mT @ path[:, :3, :3], torch.eye(3), atol=1e-5)


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1.0, math.pi - 1e-4, math.pi])
def test_the_middle_of_a_turn(angle: float) -> None:
    middle = interpolate_poses(turned(0.0, angle), 2)[1]
    assert torch.allclose(middle, turned(angle / 2)[0], atol=1e-4) or (
        # A turn by exactly pi may go either way.
        angle == math.pi and torch.allclose(middle, turned(-angle / 2)[0], atol=1e-4)
    )


def test_too_short_a_path() -> None:
    with pytest.raises(ValueError, match="at least 2 keys and a count of at least 3"):
        interpolate_poses(turned(0, 1, 2), 2)


def test_distance_is_of_centres_and_angles() -> None:
    poses = turned(0.0, 0.5, 2.0)
    poses[2, 0, 3] = 3.0
    expected = torch.tensor([[0, 0.25, 13], [0.25, 0, 9 + 2.25], [13, 9 + 2.25, 0]], dtype=torch.float64)
    assert torch.allclose(pose_distances(poses), expected, atol=1e-5)


def test_farthest_points_never_repeat_a_frame() -> None:
    standing = turned(0.0, 0.0, 0.0, 0.0)
    assert farthest_points(standing, 4, start=2).tolist() == [0, 1, 2, 3]
    assert farthest_points(turned(0.0, 0.1, 0.2, 2.0), 2, start=0).tolist() == [0, 3]
    for count in (0, 5):
        with pytest.raises(ValueError, match=f"a count from 1 to 4, .* got {count}"):
            farthest_points(standing, count, start=0)


def test_a_pose_without_inverse_is_named() -> None:
    rows = torch.zeros(3, 18)
    rows[0, [6, 11, 16]] = 1.0
    with pytest.raises(ValueError, match="the pose of frame 1 has no inverse"):
        cameras_from_rows(rows)
