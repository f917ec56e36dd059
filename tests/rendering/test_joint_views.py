"""Joint renders with depth and its confidence, and the pixels that no photograph shows."""

from __future__ import annotations

import pytest
import torch
from support.small_models import small_model, views
from torch.nn.functional import avg_pool2d

from scenetok_ns.data.demo.render import render_depths
from scenetok_ns.data.demo.scenes import render_rooms, sample_rooms, sample_walks, scene_seed
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.scenetok import SceneTok
from scenetok_ns.rendering.joint_views import join_views, photographs_that_show, pixels_unseen, render_jointly


@pytest.mark.parametrize("layout", ["4:1", "1:1"])
def test_frames_are_those_of_a_render_and_known_depth_is_kept(layout: str) -> None:
    model = small_model(layout)
    pictures, cameras = views(6)
    tokens = model.encode(pictures, cameras)
    found = render_jointly(model, tokens, cameras, seed=3)
    assert torch.equal(found.frames, model.render(tokens, cameras, seed=3).clamp(0, 1))
    assert found.certainty.shape == found.depth.depth.shape == (6, 1, 16, 16)
    assert found.certainty.min() >= 0 and found.certainty.max() <= 1
    assert (found.depth.depth > 0).all()
    again = render_jointly(model, tokens, cameras, seed=3, depth=found.depth)
    assert again.depth is found.depth and torch.equal(again.certainty, found.certainty)
    both = join_views([found, again.select(torch.tensor([4]))])
    assert len(both.frames) == both.cameras.num_views == 7
    assert torch.equal(both.certainty[6], found.certainty[4])


def test_views_are_truer_where_they_are_certain() -> None:
    """In views all round, the bundled model invents what two photographs don't show. There, certainty must be lower."""
    rooms = sample_rooms([scene_seed(0, "test", 1)])
    c2w = sample_walks(rooms, 48)
    frames = render_rooms(rooms, c2w, rooms.intrinsics, 128)[0]
    cameras = CameraBatch(c2w, rooms.intrinsics[:, None].expand(1, 48, 3, 3))
    model = SceneTok.from_pretrained("scenetok-tiny", device="cpu")
    given, path = torch.tensor([6, 18]), torch.arange(0, 48, 6)
    found = render_jointly(model, model.encode(frames[given], cameras.select(given)), cameras.select(path))
    error = avg_pool2d((found.frames - frames[path]).square().mean(dim=1, keepdim=True), 8).flatten()
    certainty = avg_pool2d(found.certainty, 8).flatten()
    ranks = torch.stack([values.argsort().argsort().double() for values in (error, certainty)])
    correlation = float(torch.corrcoef(ranks)[0, 1])
    assert correlation < -0.2  # it would be -0.07 for the uncertainty of the single denoising step


def test_seen_is_what_a_photograph_shows_and_nothing_hides() -> None:
    """With exact depth, few pixels are unseen in the photograph itself, more in a neighbour, most from opposite."""
    rooms = sample_rooms([5])
    c2w = sample_walks(rooms, 48)
    depth = render_depths(rooms, c2w, rooms.intrinsics, 24)[0, :, None]
    cameras = CameraBatch(c2w, rooms.intrinsics[:, None].expand(1, 48, 3, 3))
    chosen = [0, 2, 24]
    unseen = pixels_unseen(depth[chosen], cameras.select(chosen), cameras.select([0]), depth[:1])
    itself, neighbour, opposite = unseen.float().mean(dim=(1, 2))
    assert itself < 0.02 and itself < neighbour < 0.7 < opposite
    count = photographs_that_show(depth[[0]], cameras.select([0]), cameras.select([0, 2, 24]), depth[[0, 2, 24]])
    assert count.max() == 2 and 1 < count.float().mean() < 2  # its neighbour shows a part of it, the opposite view none
