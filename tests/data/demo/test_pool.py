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
