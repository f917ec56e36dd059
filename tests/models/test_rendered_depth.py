"""Depth without a head: the views of a path are compared, and a single view gets further views around it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.depth_scenes import wall_views
from support.oracle import path
from support.small_models import small_model, views

from scenetok_ns.models import rendered_depth
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.flow.windows import RenderedFrames
from scenetok_ns.models.rendered_depth import companions, depth_windows, scene_unit, sweep_views


class WallModel:
    """Stand-in for a model that renders the wall of `wall_views` from any camera of its row."""

    def __init__(self) -> None:
        self.inner = small_model("1:1")
        self.preset, self.device = self.inner.preset, torch.device("cpu")
        self.asked: list[tuple[CameraBatch, object]] = []

    def depth_head(self) -> None:
        return None

    def render_windows(self, tokens, cameras, *, clean=None, **settings):  # type: ignore[no-untyped-def]
        self.asked.append((cameras, clean))
        from support.depth_scenes import WALL, axis_rays, texture

        rays = axis_rays(cameras, (24, 24))
        origin = cameras.c2w[0, :, :3, 3, None, None]
        points = origin + ((WALL - origin[:, 2]) / rays[:, 2])[:, None] * rays
        frames = texture(points[:, 0], points[:, 1])
        for first in range(0, len(frames), 4):
            yield RenderedFrames(first, frames[None, first : first + 4])


@pytest.fixture
def tokens():  # type: ignore[no-untyped-def]
    return small_model("1:1").encode(*views(3))


def test_a_paths_frames_are_compared_with_one_another(tokens) -> None:  # type: ignore[no-untyped-def]
    model = WallModel()
    _, cameras, truth = wall_views(count=11)
    windows = list(depth_windows(model, tokens, cameras))  # type: ignore[arg-type]
    assert len(model.asked) == 1 and [window.first_frame for window in windows] == [0, 4, 8]
    depth = torch.cat([window.maps.depth[0] for window in windows])  # type: ignore[union-attr]
    assert depth.shape == truth.shape and (depth / truth - 1).abs().median() < 0.04


def test_a_view_alone_gets_views_around_it_that_go_on_from_it(tokens) -> None:  # type: ignore[no-untyped-def]
    model = WallModel()
    frames, cameras, truth = wall_views(count=7)
    latents = torch.zeros(1, 1, 16, 2, 2)
    one = cameras.select([3])
    sampler = model.preset.sampler
    maps = sweep_views(model, tokens, frames[3:4], one, [0], sampler, 0, latents=latents)  # type: ignore[arg-type]
    ((around, clean),) = model.asked
    assert clean is not None and torch.equal(clean.cameras.c2w, one.c2w) and clean.latents is latents
    assert maps.depth.shape == (1, 1, 24, 24) and (maps.depth / truth[3:4] - 1).abs().median() < 0.05
    # The further views have the orientation of the view, and stand beside it.
    assert torch.equal(around.c2w[..., :3, :3], one.c2w[..., :3, :3].expand(1, around.num_views, 3, 3))
    assert around.c2w[0, :, 2, 3].unique().tolist() == [0.0]


def test_the_ring_fits_into_a_window_and_the_scene() -> None:
    model = small_model("4:1")
    tokens = model.encode(*views(3))
    ring = companions(model, path(1), 2.0, model.preset.sampler)
    assert 4 <= ring.num_views <= rendered_depth.MOST_COMPANIONS
    distance = (ring.c2w - path(1).c2w)[0, :, :3, 3].norm(dim=1)
    assert distance.max() == pytest.approx(2.0 * rendered_depth.RADIUS, rel=1e-4)
    far = tokens.cameras_c2w.clone()  # type: ignore[union-attr]
    far[:, :3, 3] = torch.tensor([[3.0, 0, 0], [-3.0, 0, 0], [0, 0, 0]])
    assert scene_unit(replace(tokens, cameras_c2w=far)) == pytest.approx(6.0**0.5)
    assert scene_unit(replace(tokens, cameras_c2w=None, cameras_intrinsics=None, pose_scale=0.25)) == 4.0
