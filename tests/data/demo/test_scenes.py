"""Procedural rooms depend on their seed alone and have exact poses, walks that turn, and the promised difficulty."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scenetok_ns.data.demo.difficulty import demo_difficulty, even_split, nearest_views, turn_degrees
from scenetok_ns.data.demo.pool import without_photographs
from scenetok_ns.data.demo.rooms import NUM_BOXES, NUM_CYLINDERS, NUM_OBJECTS, RoomBatch, material
from scenetok_ns.data.demo.scenes import (
    CAMERA_MARGIN,
    CAPTURE_MARGIN,
    render_depths,
    render_rooms,
    sample_captures,
    sample_orbits,
    sample_rooms,
    sample_walks,
    scene_seed,
)
from scenetok_ns.data.demo.shading import occlusion
from scenetok_ns.data.demo.surfaces import waves

BALL = NUM_BOXES + NUM_CYLINDERS
RED = torch.tensor([1.0, 0.0, 0.0])


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def with_red_ball(rooms: RoomBatch, center: torch.Tensor, radius: float) -> RoomBatch:
    """Replace all objects of the rooms with a bright red ball."""
    centers = torch.full_like(rooms.center, -50.0)
    halves = torch.full_like(rooms.half, 0.01)
    centers[:, BALL], halves[:, BALL] = center, radius
    materials = rooms.materials.clone()
    materials[:, BALL] = material(RED, emission=20.0)
    return dataclasses.replace(rooms, center=centers, half=halves, materials=materials)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(0, 2**60), min_size=2, max_size=5, unique=True))
def test_a_room_depends_on_its_seed_alone(seeds: list[int]) -> None:
    together = dict(sample_rooms(seeds).tensors())
    for i, seed in enumerate(seeds):
        for name, value in sample_rooms([seed]).tensors():
            assert torch.equal(value[0], together[name][i]), name


def test_rooms_of_other_seeds_are_others() -> None:
    seeds = [scene_seed(s, split, i) for s in (0, 1) for split in ("train", "test") for i in (0, 1)]
    assert len(set(seeds)) == 8
    extents = sample_rooms(seeds).extent
    assert len({tuple(row.tolist()) for row in extents}) == 8


def test_pictures_do_not_depend_on_the_batch() -> None:
    rooms = sample_rooms([1, 2, 3])
    c2w = sample_walks(rooms, 5)
    together = render_rooms(rooms, c2w, rooms.intrinsics, size=24)
    for i in range(3):
        one = rooms.select(slice(i, i + 1))
        alone = render_rooms(one, c2w[i : i + 1, 2:4], one.intrinsics, size=24)
        assert (alone[0] - together[i, 2:4]).abs().mean() < 1e-4
    again = render_rooms(rooms, c2w, rooms.intrinsics, size=24)
    assert torch.equal(together, again)


def test_a_ball_appears_where_its_centre_projects() -> None:
    """The mean of the ball's pixels is the projection of its centre, with OpenCV axes and normalised intrinsics."""
    rooms = sample_rooms(range(6))
    c2w = sample_walks(rooms, 4)[:, 2:3]
    size = 96
    offset = torch.tensor([[0.2, 0.1], [-0.25, 0.2], [0.0, -0.1], [0.3, -0.15], [-0.1, 0.25], [0.15, 0.0]])
    in_camera = torch.cat([offset, torch.ones(6, 1), torch.ones(6, 1)], dim=1)
    center = (c2w[:, 0] @ in_camera[..., None])[:, :3, 0]
    with_ball, without = (
        render_rooms(with_red_ball(rooms, at, 0.04), c2w, rooms.intrinsics, size)[:, 0]
        for at in (center, torch.full_like(center, -50.0))
    )
    projected = torch.einsum("bij,bj->bi", rooms.intrinsics, in_camera[:, :3])[:, :2] * size
    redness = (with_ball - without).abs().sum(dim=1).gt(0.05).float()
    ticks = torch.arange(size) + 0.5
    weight = redness.sum(dim=(1, 2))
    assert (weight > 1).all()
    seen = torch.stack([(redness.sum(1) * ticks).sum(1) / weight, (redness.sum(2) * ticks).sum(1) / weight], dim=1)
    # Off the axis, a ball appears as an ellipse whose middle is farther out, here by well under half a pixel.
    assert (seen - projected).norm(dim=1).max() < 0.4


def test_walks_are_rigid_smooth_inside_and_turn() -> None:
    rooms = sample_rooms(range(64))
    c2w = sample_walks(rooms, 48)
    rotation, position = c2w[..., :3, :3], c2w[..., :3, 3]
    assert torch.allclose(rotation @ rotation.mT, torch.eye(3).expand_as(rotation), atol=1e-5)
    assert torch.allclose(torch.linalg.det(rotation), torch.ones(()), atol=1e-5)
    assert (rotation[..., 2, 1] < -0.8).all(), "down is not down"
    room = rooms.extent[:, None, :2] / 2 - CAMERA_MARGIN
    assert (position[..., :2].abs() <= room + 1e-4).all()
    assert (position.diff(dim=1).norm(dim=-1) < 0.35).all()
    assert min(turn_degrees(walk) for walk in c2w) >= 120


def test_frames_of_a_longer_walk_lie_on_the_same_path() -> None:
    rooms = sample_rooms([5])
    assert torch.allclose(sample_walks(rooms, 9)[:, ::2], sample_walks(rooms, 5), atol=1e-5)


def test_a_room_can_be_rendered_at_any_size() -> None:
    """A render at half the resolution is nearly the mean of 2 x 2 pixels of the full one."""
    rooms = sample_rooms([11])
    c2w = sample_walks(rooms, 2)
    small, large = (render_rooms(rooms, c2w, rooms.intrinsics, size) for size in (32, 64))
    assert (torch.nn.functional.avg_pool2d(large[0], 2) - small[0]).abs().mean() < 0.016


def test_objects_are_where_the_tables_say() -> None:
    rooms = sample_rooms(range(40))
    shown = rooms.center[..., 2] > -10
    low = (rooms.center - rooms.half)[..., 2]
    assert (low[shown] > -1e-5).all(), "something reaches under the floor"
    sideways = (rooms.center[..., :2].abs() + rooms.half[..., :2])[shown]
    assert (sideways <= rooms.extent[:, None, :2].expand(-1, NUM_OBJECTS, -1)[shown] / 2 + 0.02).float().mean() > 0.97
    assert 8 < shown.sum(dim=1).float().mean() < NUM_OBJECTS


def test_rooms_are_as_hard_as_promised() -> None:
    measured = []
    for i in range(5):
        rooms = sample_rooms([scene_seed(0, "test", i)])
        c2w = sample_walks(rooms, 48)
        images = render_rooms(rooms, c2w, rooms.intrinsics, size=64)
        measured.append(demo_difficulty(images[0], c2w[0]))
    nearest = sum(d.nearest_context for d in measured) / len(measured)
    mean = sum(d.mean_colour for d in measured) / len(measured)
    assert 12 <= nearest <= 18
    assert mean <= 15


def test_difficulty_counts_what_it_says() -> None:
    """Four views form two pairs, so the nearest context view is the other one of the pair.

    Its error of 0.1 is 20 dB; the mean colour has an error of 0.4, which is 7.96 dB.
    """
    c2w = torch.eye(4).repeat(4, 1, 1)
    c2w[1:3, 0, 3] = torch.tensor([0.1, 0.9])
    c2w[3, 0, 3] = 1.0
    images = torch.tensor([0.0, 0.1, 0.9, 1.0])[:, None, None, None].expand(4, 3, 16, 16)
    context, target = even_split(4, 2)
    assert context.tolist() == [0, 3] and target.tolist() == [1, 2]
    assert nearest_views(c2w[target], c2w[context]).tolist() == [0, 1]
    measured = demo_difficulty(images, c2w, num_context=2)
    assert measured.nearest_context == pytest.approx(20, abs=1e-3)
    assert measured.mean_colour == pytest.approx(7.959, abs=1e-3)


def test_depth_is_where_the_ball_is_and_where_a_wall_is() -> None:
    """The depth of a ball on the axis is that of its front; in an empty room, all points lie on its six faces."""
    rooms = sample_rooms(range(3))
    c2w = sample_walks(rooms, 4)[:, 1:2]
    center = (c2w[:, 0] @ torch.tensor([0.0, 0.0, 1.0, 1.0]))[:, :3]
    depth = render_depths(with_red_ball(rooms, center, 0.1), c2w, rooms.intrinsics, size=33)[:, 0]
    assert torch.allclose(depth[:, 16, 16], torch.full((3,), 0.9), atol=1e-3)
    empty = render_depths(with_red_ball(rooms, torch.full_like(center, -50.0), 0.1), c2w, rooms.intrinsics, 33)[:, 0]
    ticks = (torch.arange(33) + 0.5) / 33
    y, x = torch.meshgrid(ticks, ticks, indexing="ij")
    rays = torch.linalg.inv(rooms.intrinsics) @ torch.stack([x, y, torch.ones_like(x)]).flatten(1)
    points = c2w[:, 0, :3, :3] @ (rays * empty.flatten(1)[:, None]) + c2w[:, 0, :3, 3:]
    half = rooms.extent[:, :, None] / 2
    away = (points - half * torch.tensor([0.0, 0.0, 1.0])[:, None]).abs() / half
    assert torch.allclose(away.amax(dim=1), torch.ones(()), atol=1e-4), "points are not on walls, floor or ceiling"


def test_fine_patterns_show_near_and_fade_far_away() -> None:
    look = material(RED, grain=0.5, grain_u=8.0, grain_v=0.5)[None, :, None].expand(1, -1, 400)
    u, v = torch.linspace(0, 2, 400)[None], torch.zeros(1, 400)
    near, far = (waves(look, u, v, torch.full((1, 400), depth), torch.zeros(1, 400)) for depth in (1.0, 12.0))
    assert near.min() < 0.6 and near.max() > 1.4
    assert torch.equal(far, torch.ones_like(far))


def test_furniture_throws_shadows() -> None:
    """The floor is dark under a box below the light, but not beside it, and a box casts no shadow on itself."""
    rooms = sample_rooms([3])
    occluder = torch.full_like(rooms.occluder, 0.01)
    occluder[..., :3] = -50.0
    occluder[0, 0] = torch.tensor([0.0, 0.0, 1.0, 0.3, 0.3, 0.2])
    rooms = dataclasses.replace(rooms, occluder=occluder)
    point = torch.tensor([[[0.0, 1.5], [0.0, 0.0], [0.0, 0.0]]])
    towards = torch.tensor([0.0, 0.0, 2.4])[None, :, None] - point
    dark, bright = occlusion(rooms, point, towards, torch.full((1, 2), -1.0), 1.0)[0]
    assert dark > 0.9 and bright < 0.01
    assert occlusion(rooms, point, towards, torch.zeros(1, 2), 1.0).max() < 0.01, "a thing shades itself"


def test_photographs_stand_outside_and_hang_on_walls() -> None:
    """With photographs, pictures of rooms that show them change; those of rooms without photographs do not."""
    rooms = sample_rooms(range(6))
    c2w = sample_walks(rooms, 8)
    photographs = torch.zeros(2, 3, 8, 16)
    photographs[0, 0], photographs[1, 2] = 1.0, 1.0
    plain = render_rooms(rooms, c2w, rooms.intrinsics, 24)
    shown = render_rooms(rooms, c2w, rooms.intrinsics, 24, photographs=photographs)
    hidden = render_rooms(
        without_photographs(rooms, torch.ones(6, dtype=torch.bool)), c2w, rooms.intrinsics, 24, photographs=photographs
    )
    assert (shown - plain).abs().amax() > 0.2
    assert torch.allclose(hidden, plain, atol=1e-5)


def test_orbits_look_at_the_middle_from_inside() -> None:
    rooms = sample_rooms(range(32))
    c2w = sample_orbits(rooms, 24)
    rotation, position = c2w[..., :3, :3], c2w[..., :3, 3]
    assert torch.allclose(rotation @ rotation.mT, torch.eye(3).expand_as(rotation), atol=1e-5)
    assert (position[..., :2].abs() <= rooms.extent[:, None, :2] / 2 - CAMERA_MARGIN + 1e-4).all()
    aim = position + rotation[..., 2] * (0.75 - position[..., 2:]) / rotation[..., 2:, 2]
    assert (aim[..., :2].std(dim=1) < 0.5).all()


def test_captures_look_at_one_piece_of_furniture_from_inside() -> None:
    rooms = sample_rooms(range(32))
    c2w = sample_captures(rooms, 24)
    rotation, position = c2w[..., :3, :3], c2w[..., :3, 3]
    assert torch.allclose(rotation @ rotation.mT, torch.eye(3).expand_as(rotation), atol=1e-5)
    inside = rooms.extent[:, None] * torch.tensor([0.5, 0.5, 1.0]) - CAPTURE_MARGIN + 1e-4
    assert (position.abs() <= inside).all() and (position[..., 2] > CAPTURE_MARGIN - 1e-4).all()
    away = (position[:, :, None] - rooms.center[:, None]).abs() - rooms.half[:, None]
    assert (away < 0).all(dim=-1).any(dim=-1).float().mean() < 0.01  # inside an object: 7 % without looking for a way
    towards = rooms.occluder[:, None, :, :3] - position[:, :, None]
    ahead = (torch.nn.functional.normalize(towards, dim=-1) * rotation[..., None, :, 2]).sum(dim=-1)
    present = rooms.occluder[:, :, 2] > 0
    best = torch.where(present, ahead.mean(dim=1), -1.0).amax(dim=1)  # of the piece that a capture aims at
    assert best.min() > 0.85


def test_edges_are_as_smooth_as_with_many_samples() -> None:
    rooms = sample_rooms([3, 4])
    c2w = sample_walks(rooms, 4)
    many = render_rooms(rooms, c2w, rooms.intrinsics, 32, samples=32, edge_samples=0)
    error = [
        (render_rooms(rooms, c2w, rooms.intrinsics, 32, edge_samples=more) - many).square().mean() for more in (0, 6)
    ]
    assert error[1] < error[0] / 3
    single = render_rooms(rooms.select(slice(1, 2)), c2w[1:], rooms.intrinsics[1:], 32)
    assert torch.allclose(single, render_rooms(rooms, c2w, rooms.intrinsics, 32)[1:], atol=1e-5)


def test_wrong_input_is_named() -> None:
    rooms = sample_rooms([0])
    with pytest.raises(ValueError, match="at least one seed"):
        sample_rooms([])
    with pytest.raises(ValueError, match="at least 2 frames"):
        sample_walks(rooms, 1)
    with pytest.raises(ValueError, match="poses of 1 rooms"):
        render_rooms(rooms, sample_walks(sample_rooms([0, 1]), 2), rooms.intrinsics, 16)
    with pytest.raises(ValueError, match="index"):
        scene_seed(0, "train", -1)
    with pytest.raises(ValueError, match="unknown fields"):
        material(RED, colour=RED)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("compiled", [False, True])
def test_gpu_and_cpu_make_the_same_pictures(compiled: bool) -> None:
    cpu, gpu = sample_rooms([1, 2]), sample_rooms([1, 2], "cuda")
    c2w = sample_walks(gpu, 4)
    assert torch.allclose(c2w.cpu(), sample_walks(cpu, 4), atol=1e-6)
    ours = render_rooms(gpu, c2w, gpu.intrinsics, size=64, compiled=compiled).cpu()
    assert (ours - render_rooms(cpu, c2w.cpu(), cpu.intrinsics, size=64)).abs().mean() < 1e-4
