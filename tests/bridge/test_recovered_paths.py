"""Squares for requests of any aspect ratio, and recovery of paths from one-camera slices."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nerfstudio.cameras.camera_paths import get_interpolated_camera_path, get_path_from_json, get_spiral_path
from nerfstudio.cameras.cameras import Cameras
from support.nerfstudio_paths import path, random_poses

from scenetok_ns.bridge.cameras import recover_path, square_cameras
from scenetok_ns.data.square_pictures import BEYOND, FRAME, Aspect, PictureRequest
from scenetok_ns.dataparsers.camera_conversion import nerfstudio_to_camera_batch


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(20, 120),
    width=st.integers(20, 120),
    native=st.sampled_from([32, 64, 128]),
    wide=st.sampled_from(["border", "fill"]),
)
def test_square_shows_the_request_undistorted(height: int, width: int, native: int, wide: Aspect) -> None:
    """Each native pixel is painted with its ray. After `fit`, each pixel of the request must hold its camera's ray."""
    cameras = path(1, height, width)
    square = nerfstudio_to_camera_batch(square_cameras(cameras, wide))
    inverse = torch.linalg.inv(square.intrinsics[0, 0])
    centres = (torch.arange(native) + 0.5) / native
    rows, cols = torch.meshgrid(centres, centres, indexing="ij")
    painted = (torch.stack([cols, rows, torch.ones_like(rows)], dim=-1) @ inverse.T).permute(2, 0, 1)[None]
    request = PictureRequest(height, width, wide)
    seen = request.fit(painted)[0, :2]
    rows, cols = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    wanted = torch.stack([(cols - cameras.cx[0]) / cameras.fx[0], (rows - cameras.cy[0]) / cameras.fy[0]])
    assert seen.shape == wanted.shape
    margin = math.ceil(request.side / native) + 1  # values are constant in the outermost half of a native pixel
    inner = request.inside(margin=-margin)
    tolerance = 0.6 * request.side / native / 50 if request.side < native else 1e-3
    torch.testing.assert_close(seen[:, inner], wanted[:, inner], rtol=0, atol=tolerance)


@pytest.mark.parametrize(("height", "width"), [(40, 71), (71, 40), (40, 40), (41, 70)])
def test_border_is_drawn_beside_the_whole_square(height: int, width: int) -> None:
    request, side = PictureRequest(height, width), min(height, width)
    drawn = request.with_border(torch.ones(height, width, 3))
    white = (drawn == 1).all(-1)
    assert torch.equal(white, request.inside()) and white.sum() == side * side
    if height != width:
        line = (drawn == drawn.new_tensor(FRAME)).all(-1)
        assert line.sum() == 2 * side  # one pixel wide on two sides, none on the other two
        assert (drawn == drawn.new_tensor(BEYOND)).all(-1).sum() == height * width - side * side - 2 * side
    filled = PictureRequest(height, width, "fill")
    assert filled.inside().all() and (filled.with_border(torch.ones(height, width, 3)) == 1).all()


def test_fit_refuses_oblong_pictures() -> None:
    with pytest.raises(ValueError, match="square"):
        PictureRequest(4, 4).fit(torch.zeros(1, 3, 4, 5))


def json_path(n: int) -> Cameras:
    matrix = [1.0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]
    frames = [{"camera_to_world": [*matrix[:3], 0.1 * i, *matrix[4:]], "fov": 50 + i, "aspect": 1.5} for i in range(n)]
    return get_path_from_json({"render_height": 32, "render_width": 48, "camera_path": frames, "seconds": 1.0})


def strided_path(n: int) -> Cameras:
    """A path whose poses are a view of [n, 4, 4], as in most dataparsers."""
    square = torch.eye(4).repeat(n, 1, 1)
    square[:, :3] = random_poses(n)
    return Cameras(camera_to_worlds=square[:, :3], fx=40.0, fy=40.0, cx=16.0, cy=16.0, width=32, height=32)


def interleaved_path(n: int) -> Cameras:
    """A path whose poses have interleaved rows in memory."""
    poses = random_poses(n).permute(1, 2, 0).contiguous().permute(2, 0, 1)
    return Cameras(camera_to_worlds=poses, fx=40.0, fy=40.0, cx=16.0, cy=16.0, width=32, height=32)


def interpolated_path(n: int) -> Cameras:
    return get_interpolated_camera_path(path(2), steps=n, order_poses=False)


def spiral_path(n: int) -> Cameras:
    return get_spiral_path(strided_path(1), steps=n, radius=0.1)


@pytest.mark.parametrize("make", [path, json_path, strided_path, interleaved_path, interpolated_path, spiral_path])
@pytest.mark.parametrize("to_device", [False, True])
def test_path_is_recovered(make, to_device: bool) -> None:  # type: ignore[no-untyped-def]
    cameras = make(7)
    if to_device:
        cameras.rescale_output_resolution(0.5)
        cameras = cameras.to("cpu")
    for i in (0, 3, len(cameras) - 1):
        found, index = recover_path(cameras[i : i + 1])
        assert index == i
        for name in ("camera_to_worlds", "fx", "fy", "cx", "cy", "height", "width", "camera_type"):
            torch.testing.assert_close(getattr(found, name), getattr(cameras, name))
        if cameras.metadata:
            assert torch.equal(found.metadata["scene_idx"], cameras.metadata["scene_idx"])


def test_recovered_path_is_a_copy() -> None:
    cameras = path(4)
    found, _ = recover_path(cameras[1:2])
    cameras.camera_to_worlds[:] = 0
    assert found.camera_to_worlds.abs().sum() > 0


def cloned(cameras: Cameras) -> Cameras:
    return cameras[2:3].to("cpu")._apply_fn_to_fields(torch.clone)


def one_field_converted(cameras: Cameras) -> Cameras:
    one = cameras[2:3]
    one.fx = one.fx.double()
    return one


def not_poses(cameras: Cameras) -> Cameras:
    """Return a slice whose neighbouring rows in memory are not poses."""
    poses = torch.randn(5, 3, 4)
    poses[2] = cameras.camera_to_worlds[2]
    return Cameras(poses, fx=40.0, fy=40.0, cx=16.0, cy=16.0, width=32, height=32)[2:3]


@pytest.mark.parametrize("spoil", [cloned, one_field_converted, not_poses])
def test_doubtful_slices_are_rendered_alone(spoil) -> None:  # type: ignore[no-untyped-def]
    one = spoil(path(5))
    found, index = recover_path(one)
    assert (len(found), index) == (1, 0)
    torch.testing.assert_close(found.camera_to_worlds, one.camera_to_worlds)


def test_integer_index_is_rendered_alone() -> None:
    found, index = recover_path(path(5)[2])
    assert index == 0 and found.size == 1


def test_a_square_made_for_a_nearly_equal_camera_is_moved_into_place() -> None:
    """A square painted with the rays of one camera and fitted to another must show the other camera's rays."""
    made_for, wanted = (
        torch.tensor([[focal, 0.0, x], [0.0, focal, y], [0.0, 0.0, 1.0]])
        for focal, x, y in ((0.8, 0.5, 0.49), (0.83, 0.51, 0.5))
    )
    centres = (torch.arange(64) + 0.5) / 64
    rows, cols = torch.meshgrid(centres, centres, indexing="ij")
    pixels = torch.stack([cols, rows, torch.ones_like(rows)], dim=-1)
    painted = (pixels @ torch.linalg.inv(made_for).T).permute(2, 0, 1)[None]
    request = PictureRequest(240, 400, "fill")
    seen = request.fit(painted, made_for, wanted)[0, :2]
    rows, cols = torch.meshgrid(torch.arange(240) + 80.5, torch.arange(400) + 0.5, indexing="ij")
    rays = torch.stack([(cols / 400 - wanted[0, 2]), (rows / 400 - wanted[1, 2])]) / wanted[0, 0]
    inner = (slice(None), slice(8, -8), slice(8, -8))
    torch.testing.assert_close(seen[inner], rays[inner], rtol=0, atol=1.1 / 400 / 0.83)  # a pixel of the request
    assert (request.fit(painted)[0, :2] - rays)[inner].abs().max() > 5 / 400
