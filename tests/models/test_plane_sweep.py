"""The plane sweep finds the depths of planes in any coordinates, with low confidence in areas without texture."""

from __future__ import annotations

import pytest
import torch
from support.depth_scenes import wall_views
from support.small_splats import ring_of_cameras, row_of_cameras

from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.plane_sweep import (
    PlaneSweepOptions,
    _along,
    colour_difference,
    depth_steps,
    neighbours,
    sweep_depths,
)


@pytest.mark.parametrize("step", [False, True])
def test_depths_of_planes_are_found(step: bool) -> None:
    frames, cameras, truth = wall_views(size=32, step=step)
    found = sweep_depths(frames, cameras)
    off = (found.depth / truth - 1).abs()
    assert off.median() < 0.02 and (off < 0.1).float().mean() > (0.9 if step else 0.97)
    sure = found.confidence > 0.7
    assert sure.float().mean() > 0.5 and off[sure].mean() < off.mean()


def test_depths_are_in_the_units_of_the_poses() -> None:
    frames, cameras, truth = wall_views()
    scaled = cameras.c2w.clone()
    scaled[..., :3, 3] *= 10
    found = sweep_depths(frames, CameraBatch(scaled, cameras.intrinsics), [3])
    assert found.depth.shape == (1, 1, 24, 24)
    assert (found.depth / (10 * truth[3:4]) - 1).abs().median() < 0.03


def test_flat_colours_are_not_trusted() -> None:
    """In a picture of uniform colour no depth is more likely than another, so the confidence must be low."""
    frames, cameras, _ = wall_views()
    flat = sweep_depths(torch.full_like(frames, 0.4), cameras, [3])
    patterned = sweep_depths(frames, cameras, [3])
    assert flat.confidence.mean() < 0.2 < 0.6 < patterned.confidence.mean()


def test_a_flat_patch_takes_the_depth_around_it() -> None:
    frames, cameras, truth = wall_views(count=9, size=32, flat=0.5)
    patch = slice(13, 18)
    alone = PlaneSweepOptions(smallest_jump=0.0, largest_jump=0.0)
    found, guessed = (sweep_depths(frames, cameras, [4], options) for options in (PlaneSweepOptions(), alone))
    off, without = ((maps.depth / truth[4:5] - 1).abs()[0, 0, patch, patch] for maps in (found, guessed))
    assert off.mean() < 0.1 < without.mean()


def test_paths_prefer_small_changes_of_depth() -> None:
    """A row without information keeps the depth of the previous row. A distant depth wins only at a low cost."""
    options = PlaneSweepOptions(smallest_jump=0.1, largest_jump=0.5)
    cost = torch.tensor([[0.0, 1.0, 1.0, 1.0], [0.3, 0.3, 0.3, 0.3], [1.0, 1.0, 1.0, 0.0]]).T[:, None, :, None]
    summed = _along(cost, 2, options)[:, 0, :, 0]
    torch.testing.assert_close(summed[:, 1], torch.tensor([0.3, 0.4, 0.8, 0.8]))
    # From depth 0 (0.0 more than the best) or directly: 0 + min(0.5, 0.5) for depth 3.
    torch.testing.assert_close(summed[:, 2], torch.tensor([1.0, 1.1, 1.2, 0.5]))


@pytest.mark.parametrize(("covered", "off"), [(2, 0.0), (3, 0.3)])
def test_half_of_the_neighbours_may_be_blocked(covered: int, off: float) -> None:
    """`covered` of the 4 neighbours see another colour than the reference. The better half must decide."""
    cameras = row_of_cameras(5)
    frames = torch.full((5, 3, 8, 8), 0.2)
    frames[1 : 1 + covered] = 0.8
    world = torch.tensor([0.0, 0.3, 8.0])[:, None, None]  # a point that all frames see
    cost = colour_difference(frames[1:], cameras.select([1, 2, 3, 4]), world, frames[0, :, 0, :1])
    torch.testing.assert_close(cost, torch.full((1, 1), off))
    behind = colour_difference(frames[1:], cameras.select([1, 2, 3, 4]), -world, frames[0, :, 0, :1])
    assert behind.isinf().all()


def test_depths_are_spaced_by_a_factor() -> None:
    steps = depth_steps(3.0, PlaneSweepOptions(nearest=0.5, farthest=8.0, num_depths=5))
    torch.testing.assert_close(steps, torch.tensor([1.5, 3.0, 6.0, 12.0, 24.0]))


def test_neighbours_are_near_but_not_the_nearest() -> None:
    cameras = ring_of_cameras(36).c2w[0]
    found = neighbours(cameras, 6)
    assert found.shape == (36, 6)
    apart = (found - torch.arange(36)[:, None] + 18) % 36 - 18
    assert (apart != 0).all() and apart.abs().max() <= 8 and apart.abs().max() > 3
    assert sorted(neighbours(cameras[:4], 3)[0].tolist()) == [1, 2, 3]
    twice = cameras[[0, 0, 9]]  # the camera at the same place comes last, but never the camera itself
    assert neighbours(twice, 2).tolist() == [[2, 1], [2, 0], neighbours(twice, 2)[2].tolist()]
    assert sorted(neighbours(twice, 2)[2].tolist()) == [0, 1]


def test_one_frame_is_too_few() -> None:
    frames, cameras, _ = wall_views(count=1)
    with pytest.raises(ValueError, match="at least 2 frames"):
        sweep_depths(frames, cameras)
