from __future__ import annotations

import torch

from scenetok_ns.data.demo.pool import ScenePool, draw_training_views
from scenetok_ns.data.demo.scenes import render_rooms, sample_rooms, sample_walks


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
    truth = render_rooms(rooms, c2w, rooms.intrinsics[:, None].expand(-1, 2, 3, 3), 16)
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
    assert (position[0] - position[0, :1]).abs().max() == 0 and position[3].std(dim=0).max() > 0.1
    assert torch.equal(taken.c2w[3], rooms.c2w[3]) and not torch.equal(taken.c2w[1], rooms.c2w[1])
    assert torch.allclose(
        taken.c2w[..., :3, :3] @ taken.c2w[..., :3, :3].mT, torch.eye(3).expand(8, 4, 3, 3), atol=1e-5
    )


def test_partial_contexts_and_strides() -> None:
    generator = torch.Generator().manual_seed(0)
    context, target = draw_training_views(generator, 400, 48, 6, 8, 0.5, partial=1.0, strides=True)
    assert (context.amax(dim=1) - context.amin(dim=1)).max() < 0.75 * 48
    assert target.min() >= 0 and target.max() < 48
    step = target[:, 1] - target[:, 0]
    assert {int(s) for s in step} == {0, 1, 2}
    whole, _ = draw_training_views(generator, 400, 48, 6, 8, 0.5)
    assert (whole.amax(dim=1) - whole.amin(dim=1)).min() > 0.6 * 48
