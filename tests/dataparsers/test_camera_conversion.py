"""Conversion between Nerfstudio's camera conventions and ours."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nerfstudio.cameras.cameras import CameraType
from support.nerfstudio_paths import path

from scenetok_ns.dataparsers.camera_conversion import camera_batch_to_nerfstudio, nerfstudio_to_camera_batch


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 5), height=st.integers(8, 300), width=st.integers(8, 300), seed=st.integers(0, 1000))
def test_round_trip(n: int, height: int, width: int, seed: int) -> None:
    cameras = path(n, height, width, seed)
    back = camera_batch_to_nerfstudio(nerfstudio_to_camera_batch(cameras), height, width)
    for name in ("camera_to_worlds", "fx", "fy", "cx", "cy", "height", "width"):
        torch.testing.assert_close(getattr(back, name), getattr(cameras, name), rtol=1e-5, atol=1e-4)


def test_rays_agree_with_nerfstudio() -> None:
    """The ray of a pixel is the same in both conventions, which checks axes, centre and scale at once."""
    cameras = path(3)
    bundle = cameras.generate_rays(camera_indices=1, keep_shape=True)
    batch = nerfstudio_to_camera_batch(cameras)
    rows, cols = torch.meshgrid(torch.arange(48) + 0.5, torch.arange(80) + 0.5, indexing="ij")
    pixels = torch.stack([cols / 80, rows / 48, torch.ones_like(rows)], dim=-1)
    rays = pixels @ torch.linalg.inv(batch.intrinsics[0, 1]).T @ batch.c2w[0, 1, :3, :3].T
    rays = rays / rays.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(rays, bundle.directions, rtol=0, atol=1e-5)
    torch.testing.assert_close(batch.c2w[0, 1, :3, 3], bundle.origins[0, 0])


def test_double_focal_lengths_become_single() -> None:
    cameras = path(2)
    cameras.fx = cameras.fx.double()
    assert nerfstudio_to_camera_batch(cameras).intrinsics.dtype == torch.float32


@pytest.mark.parametrize("kind", [CameraType.FISHEYE, CameraType.EQUIRECTANGULAR, CameraType.VR180_L])
def test_other_camera_types_are_refused_by_name(kind: CameraType) -> None:
    cameras = path(2)
    cameras.camera_type = torch.full_like(cameras.camera_type, kind.value)
    with pytest.raises(ValueError, match=kind.name.lower()):
        nerfstudio_to_camera_batch(cameras)
