"""Camera paths made from a capture's cameras."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float
from support.scene_files import walk
from torch import Tensor

from scenetok_ns.data.anchors import trajectory
from scenetok_ns.data.camera_paths import PATH_NAMES, _looking, preset_path
from scenetok_ns.data.path_names import Trajectory
from scenetok_ns.data.poses import camera_spread
from scenetok_ns.data.scenes import DataError

UP = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)


def ring(directions: Tensor, radius: float, height: float = 0.5, inward: bool = True) -> Float[Tensor, "v 4 4"]:
    """Cameras on a circle around (3, 4, 0), with z up, that look at its middle or away from it."""
    out = torch.stack([directions.cos(), directions.sin(), torch.zeros_like(directions)], dim=1).double()
    middle = torch.tensor([3.0, 4.0, 0.0], dtype=torch.float64)
    return _looking(middle + radius * out + height * UP, -out if inward else out, UP)


def moved(c2w: Tensor, scale: float, seed: int) -> Tensor:
    """The same cameras after a rotation, a translation and a change of scale."""
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))[0]
    turn = turn * torch.linalg.det(turn).sign()
    world = torch.eye(4, dtype=torch.float64)
    world[:3, :3], world[:3, 3] = turn, torch.tensor([1.0, -2.0, 5.0])
    scaled = c2w.clone()
    scaled[:, :3, 3] *= scale
    return world @ scaled


@pytest.mark.parametrize("inward", [True, False])
def test_an_orbit_goes_round_as_the_cameras_stand(inward: bool) -> None:
    cameras = ring(torch.linspace(0, 2 * math.pi, 13)[:-1], radius=2.0, inward=inward)
    path = preset_path("orbit", cameras, 36)
    offsets = path[:, :3, 3] - torch.tensor([3.0, 4.0, 0.5], dtype=torch.float64)
    torch.testing.assert_close(offsets.norm(dim=1), torch.full((36,), 2.0, dtype=torch.float64))
    looks = (path[:, :3, 2] * offsets).sum(1) / 2
    torch.testing.assert_close(looks, torch.full_like(looks, -1.0 if inward else 1.0))
    torch.testing.assert_close(path[0], cameras[6], atol=1e-6, rtol=0)  # begins at the middle camera
    turns = torch.linalg.cross(offsets, offsets.roll(-1, 0)) @ UP
    assert (turns.sign() == turns[0].sign()).all() and offsets.mean(0).norm() < 1e-6


def test_an_orbit_of_one_sided_cameras_swings_and_returns() -> None:
    directions = torch.linspace(0.3, 1.5, 9)
    path = preset_path("orbit", ring(directions, radius=2.0), 40)
    offsets = path[:, :3, 3] - torch.tensor([3.0, 4.0, 0.0], dtype=torch.float64)
    angles = torch.atan2(offsets[:, 1], offsets[:, 0])
    assert angles.min() == pytest.approx(0.3, abs=1e-3) and angles.max() == pytest.approx(1.5, abs=1e-3)
    assert angles[0] == pytest.approx(float(angles[-1]), abs=0.02)
    assert (angles.diff().abs() < 0.1).all()


@pytest.mark.parametrize("name", ["forward", "sideways"])
def test_an_orbit_of_cameras_that_look_the_same_way_moves(name: Trajectory) -> None:
    """It swings by 30 degrees around a point ahead of their middle, which it looks at."""
    cameras = trajectory(name, 12).double()
    path = preset_path("orbit", cameras, 40)
    focus = cameras[:, :3, 3].mean(0) + 4 * camera_spread(cameras) * cameras[0, :3, 2]
    to_focus = focus - path[:, :3, 3]
    radius = to_focus.norm(dim=1, keepdim=True)
    torch.testing.assert_close(to_focus, radius * path[:, :3, 2], atol=1e-5, rtol=0)
    assert 0 <= radius.max() - radius.min() < 1e-5 and 0.9 < radius[0] / (4 * camera_spread(cameras)) < 1.1
    angles = torch.atan2(path[:, 0, 2], path[:, 1, 2]).rad2deg()
    assert float(angles.max()) == pytest.approx(15, abs=1e-3) == -float(angles.min())


def test_a_turn_on_the_spot() -> None:
    """For cameras in one place, an orbit turns on the spot. A path that needs a distance raises an error."""
    cameras = ring(torch.linspace(0, 2 * math.pi, 9)[:-1], radius=0.0, inward=False)
    path = preset_path("orbit", cameras, 16)
    torch.testing.assert_close(path[:, :3, 3], cameras[:1, :3, 3].expand(16, 3), atol=1e-9, rtol=0)
    assert path[:, :3, 2].mean(0).norm() < 1e-6
    for name in ("dolly", "spiral"):
        with pytest.raises(DataError, match=f"8 cameras are all in one place, so the length of a {name} is unknown"):
            preset_path(name, cameras, 16)


def test_dolly_and_spiral_stay_near_the_middle_camera() -> None:
    cameras = ring(torch.linspace(0, 1.0, 7), radius=4.0, height=0.0)
    middle = cameras[3]
    dolly = preset_path("dolly", cameras, 11)
    torch.testing.assert_close(dolly[5], middle)
    torch.testing.assert_close(dolly[:, :3, :3], middle[:3, :3].expand(11, 3, 3))
    along = (dolly[:, :3, 3] - middle[:3, 3]) @ middle[:3, 2]
    assert (along.diff() > 0).all() and float(along[-1]) == pytest.approx(min(camera_spread(cameras), 1.0))
    spiral = preset_path("spiral", cameras, 24)
    focus = torch.tensor([3.0, 4.0, 0.0], dtype=torch.float64)
    to_focus = focus - spiral[:, :3, 3]
    cosine = (spiral[:, :3, 2] * to_focus).sum(1) / to_focus.norm(dim=1)
    torch.testing.assert_close(cosine, torch.ones_like(cosine))
    assert (spiral[:, :3, 3] - middle[:3, 3]).norm(dim=1).max() < 1.3


def test_interpolation_passes_through_every_camera_smoothly() -> None:
    keys = walk(6).double()
    path = preset_path("interpolate", keys, 2001)
    nearest = (path[:, None] - keys[None]).flatten(2).norm(dim=2).amin(0)
    assert nearest.max() < 2e-3
    torch.testing.assert_close(path[[0, -1]], keys[[0, -1]])
    speed = path[:, :3, 3].diff(dim=0).norm(dim=1)
    assert (speed.diff().abs() < 0.02 * speed.max()).all()  # no corners


@settings(max_examples=25)
@given(st.sampled_from(PATH_NAMES), st.integers(1, 40), st.integers(2, 14), st.integers(0, 99), st.floats(0.01, 100))
def test_paths_are_rigid_and_move_with_the_world(name: str, count: int, views: int, seed: int, scale: float) -> None:
    cameras = ring(torch.linspace(0, 0.4 * views, views), radius=2.0)
    path, elsewhere = preset_path(name, cameras, count), preset_path(name, moved(cameras, scale, seed), count)
    gram = path[:, :3, :3].mT @ path[:, :3, :3]
    torch.testing.assert_close(gram, torch.eye(3, dtype=torch.float64).expand_as(gram), atol=1e-6, rtol=0)
    assert (torch.linalg.det(path[:, :3, :3]) > 0).all() and path.shape == (count, 4, 4)
    torch.testing.assert_close(elsewhere, moved(path, scale, seed), atol=1e-5 * max(1.0, scale), rtol=0)


def test_what_is_refused() -> None:
    with pytest.raises(DataError, match="unknown path 'loop'; there are orbit, dolly"):
        preset_path("loop", walk(3), 4)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="at least one camera and one frame, got 0 and 4"):
        preset_path("orbit", walk(3)[:0], 4)
    with pytest.raises(DataError, match="needs at least two"):
        preset_path("interpolate", walk(3)[:1], 4)
