"""The Python functions for square pictures and their cameras, and for one photograph to generate from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.oracle import path

from scenetok_ns.data.errors import DataError
from scenetok_ns.data.images import crop_intrinsics, rescale_and_crop
from scenetok_ns.data.posed_views import as_pictures, photograph_views, pose_scale_of, square_views
from scenetok_ns.models.presets import load_preset

PICTURES = torch.randint(0, 256, (2, 3, 40, 60), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.mark.parametrize("images", [PICTURES, PICTURES / 255, PICTURES.movedim(1, -1).numpy()])
def test_squares_are_those_that_the_data_layer_cuts(images: torch.Tensor) -> None:
    squares, cameras = square_views(images, path(2), 32)
    assert torch.equal(squares, torch.stack([rescale_and_crop(picture, (32, 32)) for picture in PICTURES]))
    assert torch.equal(cameras.intrinsics, crop_intrinsics(path(2).intrinsics, (40, 60), (32, 32)))
    assert torch.equal(cameras.c2w, path(2).c2w)
    assert torch.equal(square_views(images, path(2), (32, 32))[0], squares)


def test_squares_of_too_small_pictures_or_too_few_cameras_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 64 x 64 pixels, got 40 x 60"):
        square_views(PICTURES, path(2), 64)
    with pytest.raises(ValueError, match=r"batch of one with 2 cameras, got \[1, 3\]"):
        square_views(PICTURES, path(3), 32)
    with pytest.raises(ValueError, match=r"equal height and width, got \(32, 30\)"):
        square_views(PICTURES, path(2), (32, 30))
    for call in (lambda: square_views(PICTURES, path(2).c2w, 32), lambda: pose_scale_of(path(2).c2w, "scenetok-tiny")):  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="expected cameras of type CameraBatch, got Tensor"):
            call()


def test_a_photograph_stands_at_the_start_of_its_path(tmp_path: Path) -> None:
    Image.fromarray(PICTURES[0].movedim(0, -1).numpy()).resize((225, 150)).save(tmp_path / "room.png")
    preset = load_preset("scenegen-tiny")
    views = photograph_views(tmp_path / "room.png", preset, "sideways", fov=53.13, pose_scale=2.0)
    assert views.images.shape == (1, 3, 128, 128) and (views.scene, views.pose_scale) == ("room", 2.0)
    assert float(views.cameras.intrinsics[0, 0, 1, 1]) == pytest.approx(1.0, abs=1e-3)
    assert views.anchors is not None and views.anchors.num_views == preset.data.views.num_context
    assert torch.equal(views.anchors.c2w[:, 0], views.cameras.c2w[:, 0])
    with pytest.raises(ValueError, match=r"one of forward, .*, got path 'orbit'"):
        photograph_views(tmp_path / "room.png", preset, "orbit")  # type: ignore[arg-type]
    moved = views.anchors.c2w[0, -1, :3, 3] - views.anchors.c2w[0, 0, :3, 3]
    assert float(moved.norm()) == pytest.approx(1.0, abs=1e-4)
    own = photograph_views(tmp_path / "room.png", preset, path(30))
    assert torch.equal(own.cameras.c2w[0, 0], path(30).c2w[0, 0])
    with pytest.raises(ValueError, match="preset scenetok-tiny generates no scenes"):
        photograph_views(tmp_path / "room.png", load_preset("scenetok-tiny"))
    with Image.open(tmp_path / "room.png") as opened:
        again = photograph_views(opened, "scenegen-tiny", "sideways", fov=53.13, pose_scale=2.0)
    assert torch.equal(again.images, views.images) and again.scene == "room"
    assert photograph_views(Image.new("RGB", (200, 150)), preset).scene == "photograph"
    with pytest.raises(DataError, match="photograph cannot be read as an image: it is transparent everywhere"):
        photograph_views(Image.new("RGBA", (200, 150)), preset)
    with pytest.raises(DataError, match="no image at"):
        photograph_views(tmp_path / "none.png", preset)


def test_frames_become_bytes() -> None:
    frames = torch.tensor([0.0, 0.5, 1.2]).reshape(1, 3, 1, 1)
    assert np.array_equal(as_pictures(frames), np.array([[[[0, 128, 255]]]], np.uint8))
