from __future__ import annotations

import torch

from scenetok_ns.data.demo.pool import (
    CAPTURES,
    EXPOSED,
    SAMPLES,
    TYPICAL_SPREAD,
    ScenePool,
    draw_training_views,
    with_photographs,
)
from scenetok_ns.data.demo.rooms import MATERIAL_SLICES
from scenetok_ns.data.demo.scenes import render_depths, render_rooms, sample_captures, sample_rooms, sample_walks
from scenetok_ns.models.cameras import camera_spread
from scenetok_ns.models.presets import load_preset
from scenetok_ns.training.tiny.depth import DepthPool


def small_pool(capacity: int, **options) -> ScenePool:
    pool = ScenePool(
        capacity=capacity, num_frames=3, image_size=16, first_seed=7, device=torch.device("cpu"), **options
    )
    pool.fill()
    return pool


def test_a_frame_comes_with_its_own_picture_and_camera() -> None:
    pool = small_pool(2)
    batch = pool.take(torch.tensor([1]), torch.tensor([[2, 0]]))
    rooms = sample_rooms([8])
    c2w = sample_walks(rooms, 3)[:, [2, 0]]
    torch.testing.assert_close(batch.c2w, c2w)
    truth = render_rooms(rooms, c2w, rooms.intrinsics, 16, samples=SAMPLES, edge_samples=0)
    assert (batch.frames / 255 - truth).abs().max() < 0.01


def test_renewing_replaces_the_oldest_scenes_and_no_others() -> None:
    pool = small_pool(3)
    everything = (torch.arange(3), torch.arange(3).expand(3, -1))
    before = pool.take(*everything)
    pool.renew(2)
    after = pool.take(*everything)
    same = [torch.equal(before.c2w[i], after.c2w[i]) for i in range(3)]
    assert same == [False, False, True]
    assert pool.made == 5


def test_encode_sees_bytes_and_its_result_is_kept() -> None:
    pool = small_pool(1, encode=lambda images: images[:, :, :1, :2, :2].float() + 1000)
    frames = pool.take(torch.tensor([0]), torch.tensor([[0, 1]])).frames
    assert frames.shape == (1, 2, 1, 2, 2) and frames.min() >= 1000


def test_training_views_are_clips_inside_the_walk() -> None:
    generator = torch.Generator().manual_seed(0)
    context, one = draw_training_views(generator, 500, 20, 5, 6, two_clips=0.0)
    parts = torch.div(context, 4, rounding_mode="floor")
    assert torch.equal(parts, torch.arange(5).expand(500, -1))
    assert (one.diff(dim=1) == 1).all() and one.min() == 0 and one.max() == 19
    _, two = draw_training_views(generator, 500, 20, 5, 6, two_clips=1.0)
    steps = two.diff(dim=1)
    assert (steps[:, [0, 1, 3, 4]] == 1).all() and (steps[:, 2] != 1).any()
    assert two.min() == 0 and two.max() == 19


def test_varied_pools_show_panoramas_orbits_and_keep_images() -> None:
    """Every eighth scene turns inside a panorama at one place, and stored images are the frames that were encoded."""
    photographs = torch.rand(2, 3, 8, 16, generator=torch.Generator().manual_seed(0))
    options = dict(capacity=8, num_frames=4, image_size=16, first_seed=70, device=torch.device("cpu"))
    pool = ScenePool(**options, keep_images=True, varied=True, photographs=photographs)
    plain = ScenePool(**options)
    pool.fill()
    plain.fill()
    scenes, views = torch.arange(8), torch.arange(4).expand(8, -1)
    taken, rooms = pool.take(scenes, views), plain.take(scenes, views)
    assert torch.equal(taken.frames, pool.images(scenes, views))
    position = taken.c2w[..., :3, 3]
    assert (position[0] - position[0, :1]).abs().max() == 0 and position[4].std(dim=0).max() > 0.1
    assert [torch.equal(taken.c2w[i], rooms.c2w[i]) for i in range(8)] == [False] * 4 + [True] * 4
    assert torch.allclose(
        taken.c2w[..., :3, :3] @ taken.c2w[..., :3, :3].mT, torch.eye(3).expand(8, 4, 3, 3), atol=1e-5
    )


def test_captures_are_scaled_to_a_typical_spread_and_exact() -> None:
    """Pictures and depth of scenes 2 and 3 of eight are those of their poses, once these are in metres again."""
    photographs = torch.rand(2, 3, 8, 16, generator=torch.Generator().manual_seed(0))
    pool = DepthPool(
        capacity=8,
        num_frames=6,
        image_size=24,
        first_seed=70,
        device=torch.device("cpu"),
        keep_images=True,
        varied=True,
        photographs=photographs,
    )
    pool.fill()
    assert load_preset("scenetok-tiny").data.camera_spread == TYPICAL_SPREAD
    for scene in CAPTURES:
        taken = pool.take(torch.tensor([scene]), torch.arange(6)[None])
        assert 0.75 * TYPICAL_SPREAD < camera_spread(taken.c2w[0]) < 1.4 * TYPICAL_SPREAD
        metric = sample_captures(sample_rooms([70 + scene]), 6)
        unit = pool._unit[scene]
        assert torch.allclose(taken.c2w[..., :3, 3], metric[..., :3, 3] * unit, atol=1e-5) and unit != 1
        assert torch.equal(taken.c2w[..., :3, :3], metric[..., :3, :3])
        place, frames = torch.tensor([scene]), torch.arange(6)[None]
        rooms = sample_rooms([70 + scene])
        shown = with_photographs(rooms, torch.tensor([True]))
        lens = taken.intrinsics[:, 0]
        truth = render_rooms(shown, metric, lens, 24, samples=SAMPLES, edge_samples=0, photographs=photographs)
        exposure = rooms.photo[:, 1] * 0.9 + 0.6 if scene in EXPOSED else 1.0
        assert (pool.images(place, frames) / 255 - truth**exposure).abs().max() < 0.01
        depth = render_depths(rooms, metric, lens, 24) * unit
        torch.testing.assert_close(pool.depths(place, frames)[:, :, 0], depth, rtol=2e-3, atol=1e-3)


def test_photographs_cover_surfaces_in_parts_that_differ() -> None:
    rooms = sample_rooms(range(4))
    changed = with_photographs(rooms, torch.tensor([True, True, False, True]))
    part = changed.materials[..., MATERIAL_SLICES["photo"]][..., 0]
    assert torch.equal(changed.materials[2], rooms.materials[2])
    for room in (0, 1, 3):
        shown = part[room][part[room] > 0]
        assert len(shown) > 0.4 * len(part[room]) and shown.std() > 0.2 and shown.max() <= 1
    windows = changed.materials[..., MATERIAL_SLICES["sky"]][..., 0] > 0
    assert windows.any() and torch.equal(changed.materials[windows], rooms.materials[windows])


def test_partial_contexts_and_strides() -> None:
    generator = torch.Generator().manual_seed(0)
    context, target = draw_training_views(generator, 400, 48, 6, 8, 0.5, partial=1.0, strides=True)
    assert (context.amax(dim=1) - context.amin(dim=1)).max() < 0.75 * 48
    assert target.min() >= 0 and target.max() < 48
    first = target[:, 1:4] - target[:, :3]
    runs = (first == first[:, :1]).all(dim=1)
    assert {0, 1, 2} <= {int(s) for s in first[runs, 0]} and 0.03 < 1 - runs.float().mean() < 0.15
    whole, _ = draw_training_views(generator, 400, 48, 6, 8, 0.5)
    assert (whole.amax(dim=1) - whole.amin(dim=1)).min() > 0.6 * 48
