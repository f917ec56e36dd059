"""Exported data sets are read back by Nerfstudio's own dataparser."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.data.datasets.base_dataset import InputDataset

from scenetok_ns.data.demo.scenes import render_rooms, sample_rooms, sample_walks
from scenetok_ns.dataparsers.camera_conversion import nerfstudio_to_camera_batch
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.rendering.dataset_export import write_dataset
from scenetok_ns.rendering.views import RenderedViews
from scenetok_ns.splats.points import Points


def views(count: int, seed: int) -> RenderedViews:
    """Views of a walk, whose intrinsics differ from view to view, with principal points off the centre."""
    rooms = sample_rooms([seed])
    intrinsics = rooms.intrinsics.expand(count, 3, 3).clone()
    intrinsics[:, 0, 0] += 0.01 * torch.arange(count)
    intrinsics[:, 1, 2] += 0.02
    frames = (torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 255).round() / 255
    return RenderedViews(frames, CameraBatch(sample_walks(rooms, count), intrinsics[None]))


@pytest.mark.parametrize("with_points", [True, False])
def test_nerfstudio_reads_what_was_written(tmp_path: Path, with_points: bool) -> None:
    train, evaluation = views(11, 0), views(3, 1)
    points = Points(torch.randn(20, 3), (torch.rand(20, 3) * 255).round() / 255, torch.ones(20))
    write_dataset(tmp_path, train, evaluation, points if with_points else None)
    # splatfacto's settings, except those that move the world.
    config = NerfstudioDataParserConfig(
        data=tmp_path, load_3D_points=True, orientation_method="none", center_method="none", auto_scale_poses=False
    )
    parser = config.setup()
    for split, made in (("train", train), ("val", evaluation), ("test", evaluation)):
        outputs = parser.get_dataparser_outputs(split=split)
        cameras = nerfstudio_to_camera_batch(outputs.cameras)
        torch.testing.assert_close(cameras.c2w, made.cameras.c2w, atol=1e-5, rtol=0)
        torch.testing.assert_close(cameras.intrinsics, made.cameras.intrinsics, atol=1e-5, rtol=0)
        assert not outputs.cameras.distortion_params.any()
        data = InputDataset(outputs)
        pictures = torch.stack([data.get_image_float32(i) for i in range(len(data))]).permute(0, 3, 1, 2)
        torch.testing.assert_close(pictures, made.frames, atol=1e-6, rtol=0)
        assert ("points3D_xyz" in outputs.metadata) == with_points
        if with_points:
            torch.testing.assert_close(outputs.metadata["points3D_xyz"], points.means)
            levels = outputs.metadata["points3D_rgb"].float() / 255
            torch.testing.assert_close(levels, points.colours, atol=1e-6, rtol=0)


def test_enlarged_pictures_come_back_and_their_cameras_stay() -> None:
    rooms = sample_rooms([3])
    c2w = sample_walks(rooms, 2)
    cameras = CameraBatch(c2w, rooms.intrinsics[:, None].expand(1, 2, 3, 3))
    small = RenderedViews(render_rooms(rooms, c2w, rooms.intrinsics, 32)[0], cameras)
    large = small.resized(256)
    assert large.frames.shape == (2, 3, 256, 256) and large.cameras is small.cameras and small.resized(32) is small
    back = torch.nn.functional.avg_pool2d(large.frames, 8)
    assert (back - small.frames).square().mean() < 4e-4
