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
from scenetok_ns.data.posed_views import PosedViews, as_pictures, photograph_views, pose_scale_of, square_views
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.flow.windows import RenderedFrames
from scenetok_ns.models.presets import load_preset

PICTURES = torch.randint(0, 256, (2, 3, 40, 60), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def cameras_of_whole_pictures(count: int = 2) -> CameraBatch:
    """Cameras of pictures of 60 x 40 pixels with a focal length of 35 pixels."""
    lens = torch.tensor([[35 / 60, 0.0, 0.5], [0.0, 35 / 40, 0.5], [0.0, 0.0, 1.0]])
    return CameraBatch(path(count).c2w, lens.expand(1, count, 3, 3))


@pytest.mark.parametrize("images", [PICTURES, PICTURES / 255, PICTURES.movedim(1, -1).numpy()])
def test_squares_are_those_that_the_data_layer_cuts(images: torch.Tensor) -> None:
    given = cameras_of_whole_pictures()
    squares, cameras = square_views(images, given, 32)
    assert torch.equal(squares, torch.stack([rescale_and_crop(picture, (32, 32)) for picture in PICTURES]))
    assert torch.equal(cameras.intrinsics, crop_intrinsics(given.intrinsics, (40, 60), (32, 32)))
    assert torch.equal(cameras.c2w, given.c2w)
    assert torch.equal(square_views(images, given, (32, 32))[0], squares)


def test_cameras_of_squares_are_not_cropped_again() -> None:
    """The loaders of cameras return those of squares, which belong to pictures that are not yet squares."""
    _, once = square_views(PICTURES, cameras_of_whole_pictures(), 32)
    squares, twice = square_views(PICTURES, once, 32)
    assert torch.equal(twice.intrinsics, once.intrinsics) and squares.shape[-2:] == (32, 32)
    near = PICTURES[..., :42]  # nearly square, and the cameras of the whole pictures are still recognised
    lens = torch.tensor([[35 / 42, 0.0, 0.5], [0.0, 35 / 40, 0.5], [0.0, 0.0, 1.0]]).expand(1, 2, 3, 3)
    _, cropped = square_views(near, CameraBatch(path(2).c2w, lens), 32)
    assert torch.equal(cropped.intrinsics, crop_intrinsics(lens[None][0], (40, 42), (32, 32)))


def test_pixels_that_are_not_quite_square_turn_no_picture() -> None:
    nearly = torch.rand(2, 3, 200, 202)
    lens = torch.tensor([[200 / 202, 0.0, 0.5], [0.0, 204 / 200, 0.5], [0.0, 0.0, 1.0]]).expand(1, 2, 3, 3)
    _, cropped = square_views(nearly, CameraBatch(path(2).c2w, lens), 32)
    assert torch.equal(cropped.intrinsics, crop_intrinsics(lens, (200, 202), (32, 32)))


@pytest.mark.parametrize("size", [0, -4, 32.0, None, (32, 64), "32"])
def test_sides_are_whole_numbers(size: object) -> None:
    with pytest.raises(ValueError, match="expected a side in pixels, or equal height and width, got"):
        square_views(PICTURES, cameras_of_whole_pictures(), size)  # type: ignore[arg-type]


def test_turned_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match=r"40 x 60 pixels, but the focal lengths .* turned by 90 degrees"):
        square_views(PICTURES.mT, cameras_of_whole_pictures(), 32)


def test_representations_are_short() -> None:
    views = PosedViews(PICTURES, path(2), "room", 0.5)
    assert repr(views) == "PosedViews(scene='room', 2 photographs of 60 x 40 pixels, pose_scale=0.5, held_out=False)"
    assert repr(path(2)) == "CameraBatch([1, 2] cameras, device='cpu')"
    frames = RenderedFrames(3, torch.zeros(1, 2, 3, 8, 8))
    assert repr(frames) == "RenderedFrames(first_frame=3, frames [1, 2, 3, 8, 8])"


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
