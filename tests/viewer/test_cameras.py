"""Placement of a browser's camera: a canvas of any shape shows the whole square."""

from __future__ import annotations

import contextlib
import math
from types import SimpleNamespace

import pytest
import torch
from nerfstudio.viewer.render_state_machine import RenderStateMachine

from scenetok_ns.dataparsers.camera_conversion import camera_batch_to_nerfstudio
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.viewer.cameras import frustum_scale, full_size, look_through, photograph_distance, place_camera


@pytest.mark.parametrize("aspect", [0.49, 1.0, 1.6])
def test_the_shorter_side_of_the_canvas_has_the_field_of_view_of_the_square(aspect: float) -> None:
    c2w = torch.eye(4).expand(1, 3, 4, 4).clone()
    c2w[0, :, 0, 3] = torch.arange(3)
    intrinsics = torch.tensor([[0.8, 0.0, 0.5], [0.0, 0.8, 0.5], [0.0, 0.0, 1.0]]).expand(1, 3, 3, 3)
    cameras = camera_batch_to_nerfstudio(CameraBatch(c2w, intrinsics), 64, 64)
    for look in (
        lambda client: place_camera(client, cameras, 0.1),
        lambda client: look_through(client, c2w[0, 0], intrinsics[0, 0]),
    ):
        client = SimpleNamespace(camera=SimpleNamespace(aspect=aspect), atomic=contextlib.nullcontext)
        look(client)
        half = math.tan(client.camera.fov / 2)
        assert half * min(aspect, 1.0) == pytest.approx(0.5 / 0.8, rel=1e-4)


def test_a_browser_starts_beyond_the_photograph_of_a_small_frustum() -> None:
    """The frustum is small beside the distance to the next camera, in scenes of any size."""
    for size in (1e-3, 1.0, 1e3):
        c2w = torch.eye(4).expand(1, 4, 4, 4).clone()
        c2w[0, :, 2, 3] = size * torch.arange(4)
        intrinsics = torch.tensor([[0.8, 0.0, 0.5], [0.0, 0.8, 0.5], [0.0, 0.0, 1.0]]).expand(1, 4, 3, 3)
        cameras = camera_batch_to_nerfstudio(CameraBatch(c2w, intrinsics), 64, 64)
        scale = frustum_scale(cameras)
        assert scale is not None
        photograph = photograph_distance(scale, intrinsics[0, 0])
        volume = (photograph * 0.5 / 0.8) ** 2 * photograph / 3
        assert volume == pytest.approx(scale**3)  # as viser draws it
        client = SimpleNamespace(camera=SimpleNamespace(aspect=1.0), atomic=contextlib.nullcontext)
        place_camera(client, cameras, scale)
        assert photograph < client.camera.position[2] < 2 * photograph < 0.5 * 10 * size
    assert frustum_scale(cameras[:1]) is None


@pytest.mark.parametrize("aspect", [0.49, 1.0, 1.5, 2.4, 100.0])
def test_the_size_at_rest_is_the_one_in_which_nerfstudio_renders(aspect: float) -> None:
    viewer = SimpleNamespace(control_panel=SimpleNamespace(max_res=1024))
    thread = SimpleNamespace(viewer=viewer, state="high")
    assert full_size(aspect, 1024) == RenderStateMachine._calculate_image_res(thread, aspect)  # type: ignore[arg-type]


@pytest.mark.parametrize("aspect", [5e-324, 1e-6, 1e6, 1e308])
def test_no_canvas_makes_a_side_longer_than_the_maximum_or_empty(aspect: float) -> None:
    assert full_size(aspect, 64) == ((1, 64) if aspect > 1 else (64, 1))
