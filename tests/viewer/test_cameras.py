"""Placement of a browser's camera: a canvas of any shape shows the whole square."""

from __future__ import annotations

import contextlib
import math
from types import SimpleNamespace

import pytest
import torch

from scenetok_ns.dataparsers.camera_conversion import camera_batch_to_nerfstudio
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.viewer.cameras import look_through, place_camera


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
